#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    shardstage_codec_fuzz::fan_out(bytes);
});
