#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    shardstage_codec_fuzz::short_frame(bytes);
    shardstage_codec_fuzz::short_frame_with_length(bytes);
});
