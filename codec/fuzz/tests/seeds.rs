//! Hazard: the format moves on, every seed turns invalid, and fuzzing goes on in the dark.

use std::{fs, path::Path};

#[test]
fn every_committed_seed_is_valid() {
    let oracles: [(&str, fn(&[u8]) -> bool, usize); 6] = [
        ("frame_header", shardstage_codec_fuzz::frame_header, 6),
        ("short_frame", shardstage_codec_fuzz::short_frame, 3),
        ("fan_out", shardstage_codec_fuzz::fan_out, 2),
        ("request", shardstage_codec_fuzz::request, 2),
        ("hello", shardstage_codec_fuzz::hello, 3),
        ("wire_value", shardstage_codec_fuzz::wire_value, 7),
    ];
    for (target, is_valid, count) in oracles {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        let mut seeds = 0;
        for entry in fs::read_dir(&folder).expect("the corpus is committed") {
            let path = entry.expect("the corpus can be listed").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("a plain name");
            // What a fuzz run found is named by its hash and need not be valid.
            if name.len() == 40 {
                continue;
            }
            assert!(
                is_valid(&fs::read(&path).expect("a seed can be read")),
                "{}",
                path.display()
            );
            seeds += 1;
        }
        assert_eq!(seeds, count, "{target}");
    }
}
