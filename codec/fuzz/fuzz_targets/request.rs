#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    shardstage_codec_fuzz::request(bytes);
    shardstage_codec_fuzz::trace_parent(bytes);
});
