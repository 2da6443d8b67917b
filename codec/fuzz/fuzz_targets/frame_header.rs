#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    shardstage_codec_fuzz::frame_header(bytes);
    shardstage_codec_fuzz::frame_header_with_checksum(bytes);
});
