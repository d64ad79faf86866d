//! Any bytes as a clip: opened, indexed, decoded, resized. The container format is the decoder's guess.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::Write;
use videothinker::config::VideoConfig;
use videothinker::video;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("room for it");
    let config = VideoConfig {
        min_pixels: 4 * 784,
        max_pixels: 16 * 784,
        ..VideoConfig::default()
    };
    if let Ok((clip, frames)) = video::load(file.path(), &config) {
        assert_eq!(frames.shape[0], clip.indices.len());
        assert_eq!(frames.patches().num_tokens(), clip.video_tokens);
    }
});
