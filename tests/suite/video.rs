//! Clips against golden files of qwen-vl-utils, decord, torchvision and transformers; bad clips; prefetching.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use videothinker::config::{DataConfig, TextAfterVideo, VideoConfig};
use videothinker::video::resize::{Resizer, has_fma};
use videothinker::video::{
    ClipLoader, Flaws, Frames, Prefetcher, VideoError, check, check_part, decode_frames, load,
    load_patches, plan,
};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/video")
        .join(name)
}

fn clip(name: &str) -> PathBuf {
    golden("clips").join(name)
}

fn golden_json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(golden(name)).unwrap()).unwrap()
}

fn config(value: &Value) -> VideoConfig {
    serde_json::from_value(value.clone()).unwrap()
}

/// A budget that keeps the tests fast.
fn small() -> VideoConfig {
    VideoConfig {
        fps: 6.0,
        min_pixels: 4 * 784,
        max_pixels: 16 * 784,
        ..VideoConfig::default()
    }
}

/// Bit equality with PyTorch and swscale holds with their x86-64 vector code only.
#[expect(clippy::print_stderr, reason = "says why a test is skipped")]
fn bits_are_comparable() -> bool {
    let comparable = has_fma();
    if !comparable {
        eprintln!("skipped: bit equality needs an x86-64 CPU with AVX2 and FMA");
    }
    comparable
}

/// CRC-32 (IEEE), as zlib.crc32.
fn crc32(bytes: &[u8]) -> u32 {
    let table: [u32; 256] = std::array::from_fn(|i| {
        (0..8).fold(i as u32, |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    });
    !bytes.iter().fold(!0, |crc, &byte| {
        (crc >> 8) ^ table[(crc as u8 ^ byte) as usize]
    })
}

#[test]
fn crc32_is_zlibs() {
    assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
}

#[test]
fn frame_counts_and_indices_are_those_of_qwen_vl_utils() {
    let table = golden_json("plan.json");
    let rows = table["counts"].as_array().unwrap();
    assert!(rows.len() >= 200);
    for row in rows {
        let total = row["total"].as_u64().unwrap() as usize;
        let fps = row["fps"].as_f64().unwrap();
        let count = plan::frame_count(total, fps, &config(&row["config"]));
        let expected = row["count"].as_u64().map(|count| count as usize);
        assert_eq!(count, expected, "{row}");
        let indices: Vec<usize> = serde_json::from_value(row["indices"].clone()).unwrap();
        if let Some(count) = count {
            assert_eq!(plan::frame_indices(total, count), indices, "{row}");
        }
    }
}

#[test]
fn sizes_are_those_of_qwen_vl_utils() {
    let table = golden_json("plan.json");
    let rows = table["sizes"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["size"].is_null()));
    for row in rows {
        let number = |key: &str| row[key].as_u64().unwrap() as usize;
        let size = plan::frame_size(
            number("height"),
            number("width"),
            number("min_pixels") as f64,
            number("max_pixels") as f64,
        );
        let expected: Option<[usize; 2]> = serde_json::from_value(row["size"].clone()).unwrap();
        assert_eq!(size, expected, "{row}");
    }
}

#[test]
fn clips_are_described_as_by_qwen_vl_utils() {
    for case in golden_json("frames.json")["cases"].as_array().unwrap() {
        let file = case["file"].as_str().unwrap();
        let (found, frames) = load(&clip(file), &config(&case["config"])).unwrap();
        let found = serde_json::to_value(&found).unwrap();
        let expected = case["clip"].as_object().unwrap();
        let keys = |value: &Value| {
            value
                .as_object()
                .unwrap()
                .keys()
                .cloned()
                .collect::<Vec<_>>()
        };
        assert_eq!(keys(&found), keys(&case["clip"]), "{file}");
        for (key, value) in expected {
            match value.as_f64().filter(|_| value.is_f64()) {
                Some(number) => {
                    let error = (found[key].as_f64().unwrap() - number).abs();
                    assert!(error < 1e-9 * number.abs(), "{file} {key}: {}", found[key]);
                }
                None => assert_eq!(&found[key], value, "{file} {key}"),
            }
        }
        assert_eq!(frames.values.len(), frames.shape.iter().product::<usize>());
    }
}

#[test]
fn frames_are_bit_equal_to_the_reference() {
    if !bits_are_comparable() {
        return;
    }
    let cases = golden_json("frames.json");
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() >= 12);
    for case in cases {
        let file = case["file"].as_str().unwrap();
        let (_, frames) = load(&clip(file), &config(&case["config"])).unwrap();
        let frame_bytes = frames.shape[1..].iter().product::<usize>();
        let found: Vec<u32> = frames.values.chunks_exact(frame_bytes).map(crc32).collect();
        let expected: Vec<u32> = serde_json::from_value(case["crc32"].clone()).unwrap();
        let reference = case["reference"].as_str().unwrap();
        assert_eq!(found, expected, "{file}, reference: {reference}");
    }
}

#[test]
fn frames_in_the_files_size_become_those_of_the_model() {
    let (expected, frames) = load(&clip("gops.mp4"), &small()).unwrap();
    let mut resizer = Resizer::new(expected.source_size, expected.resized);
    let mut values = vec![0; frames.values.len()];
    let size = values.len() / expected.indices.len();
    let mut resize = |slot: usize, rgb: &[u8]| {
        resizer.resize(rgb, &mut values[slot * size..(slot + 1) * size]);
    };
    let found = decode_frames(&clip("gops.mp4"), &small(), 2, &mut resize).unwrap();
    assert_eq!(found, expected);
    assert!(values == frames.values);
}

#[test]
fn resize_is_bit_equal_to_torchvision() {
    let bytes = std::fs::read(golden("arrays.safetensors")).unwrap();
    let arrays = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..5 {
        let source = arrays.tensor(&format!("resize.{i}.source")).unwrap();
        let target = arrays.tensor(&format!("resize.{i}.target")).unwrap();
        let size = |shape: &[usize]| [shape[0], shape[1]];
        let mut found = vec![0; target.data().len()];
        Resizer::new(size(source.shape()), size(target.shape())).resize(source.data(), &mut found);
        let plane = found.len() / 3;
        let expected: Vec<u8> = (0..3 * plane)
            .map(|at| target.data()[at % plane * 3 + at / plane])
            .collect();
        let differing = found.iter().zip(&expected).filter(|(a, b)| a != b);
        let largest = found
            .iter()
            .zip(&expected)
            .map(|(a, b)| a.abs_diff(*b))
            .max();
        if has_fma() {
            assert_eq!(differing.count(), 0, "case {i}");
        } else {
            assert!(largest <= Some(1), "case {i}: {largest:?}");
        }
    }
}

#[test]
fn patches_are_those_of_transformers() {
    let bytes = std::fs::read(golden("arrays.safetensors")).unwrap();
    let arrays = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    for i in 0..3 {
        let frames = arrays.tensor(&format!("patches.{i}.frames")).unwrap();
        let shape: [usize; 4] = frames.shape().try_into().unwrap();
        let frames = Frames {
            values: frames.data().to_vec(),
            shape,
            second_per_grid: 1.0,
            text_after: TextAfterVideo::default(),
        };
        let patches = frames.patches();
        let grid: Vec<usize> = arrays
            .tensor(&format!("patches.{i}.grid_thw"))
            .unwrap()
            .data()
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().unwrap()) as usize)
            .collect();
        assert_eq!(patches.grid_thw.to_vec(), grid);
        let expected = arrays.tensor(&format!("patches.{i}.values")).unwrap();
        let expected: Vec<f32> = expected
            .data()
            .chunks_exact(4)
            .map(|b| f32::from_le_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(patches.values.len(), expected.len());
        let error = patches.values.iter().zip(&expected);
        let error = error.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(error <= 1e-6, "case {i}: {error}");
    }
}

#[test]
fn patches_carry_grid_and_time() {
    let (clip, patches) = load_patches(&clip("h264.mp4"), &small()).unwrap();
    assert_eq!(patches.grid_thw, clip.grid_thw);
    assert_eq!(patches.num_tokens(), clip.video_tokens);
    assert_eq!(patches.values.len(), clip.video_tokens * 4 * 1176);
    // 14 of 64 frames at 25 frames per second.
    assert!((patches.second_per_grid - 2.0 / (14.0 / 64.0 * 25.0)).abs() < 1e-12);
}

/// The error of a clip that must not load, which must name the clip.
fn refusal(path: &Path) -> VideoError {
    let error = load(path, &small()).expect_err("a bad clip was loaded");
    assert_eq!(error.path(), path);
    assert!(error.to_string().contains(&path.display().to_string()));
    error
}

#[test]
fn bad_clips_are_refused_with_a_reason() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(clip("h264.mp4")).unwrap();
    let noise: Vec<u8> = (0..20_000u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();

    let error = refusal(&folder.path().join("absent.mp4"));
    assert!(matches!(error, VideoError::NotFound { .. }), "{error}");
    let error = refusal(&file("empty.mp4", b""));
    assert!(matches!(error, VideoError::Empty { .. }), "{error}");
    let error = refusal(&file("noise.mp4", &noise));
    assert!(matches!(error, VideoError::NotAVideo { .. }), "{error}");
    let error = refusal(&file("cut_off.mp4", &whole[..whole.len() / 2]));
    assert!(matches!(error, VideoError::NotAVideo { .. }), "{error}");
    let error = refusal(&clip("sound_only.mp4"));
    assert!(matches!(error, VideoError::NoVideoTrack { .. }), "{error}");
    assert!(error.to_string().contains("only sound"), "{error}");
    let error = refusal(&clip("one_frame.mp4"));
    assert!(
        matches!(error, VideoError::TooFewFrames { total: 1, .. }),
        "{error}"
    );
}

#[test]
fn what_lies_in_a_clips_place_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let animated = b"RIFF\x40\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0";
    for (name, bytes, said) in [
        (
            "pointer.mp4",
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"[..],
            "is a Git LFS pointer, not the file: fetch it with `git lfs pull`",
        ),
        (
            "page.mp4",
            b"\n<!DOCTYPE html><html></html>",
            "is a web page or XML",
        ),
        (
            "error.mp4",
            b"<?xml version=\"1.0\"?><Error/>",
            "is a web page or XML",
        ),
        (
            "error.json.mp4",
            b"{\"error\": \"not found\"}",
            "is text (JSON)",
        ),
        (
            "packed.mp4",
            b"PK\x03\x04\0\0",
            "is a zip archive: unpack it",
        ),
        (
            "animated.webp",
            animated,
            "is an animated WebP, which is not read",
        ),
        (
            "still.mp4",
            b"\xff\xd8\xff\xe0\0\0",
            "is one image, no video",
        ),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, VideoError::OtherFile { .. }), "{error}");
        assert!(error.to_string().contains(said), "{error}");
    }
}

#[test]
fn a_part_is_refused_with_the_clips_length_before_anything_is_decoded() {
    let part = |name: &str, part: &str| clip(&format!("{name}#t={part}"));
    for name in ["h264.mp4", "null_frames.avi", "mid_gop.ts"] {
        for inside in ["1,2", "0,900", ",1", "1"] {
            check_part(&part(name, inside)).unwrap();
        }
        let error = check_part(&part(name, "1000,2000")).unwrap_err();
        assert!(matches!(error, VideoError::NothingThere { .. }), "{error}");
        assert!(error.to_string().contains("the clip has 2."), "{error}");
    }
    // Nine images, three of which make a second.
    check_part(&clip("frames#t=2,4&fps=3")).unwrap();
    let error = check_part(&clip("frames#t=3,4&fps=3")).unwrap_err();
    assert!(error.to_string().contains("the clip has 3.00 s"), "{error}");
    let error = check_part(&part("h264.mp4", "2,1")).unwrap_err();
    assert!(matches!(error, VideoError::Part { .. }), "{error}");
    // Whole clips, and what is no clip, are for others to complain about.
    check_part(&clip("h264.mp4")).unwrap();
    check_part(&part("absent.mp4", "1,2")).unwrap();

    let error = load(&part("h264.mp4", "1,1.01"), &small()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("the part #t=1,1.01 has 1 frame") && text.contains("a longer part"),
        "{text}"
    );
}

/// Goldens say which frames these have and what they look like.
#[test]
fn clips_with_empty_slots_or_a_cut_beginning_are_whole() {
    for (name, total, seconds) in [
        ("null_frames.avi", 71, 2.84),
        ("packed.avi", 48, 1.92),
        ("mid_gop.ts", 48, 1.92),
        ("no_key.mkv", 48, 1.92),
        ("open_start.mp4", 49, 1.96),
    ] {
        let (clip, flaws) = check(&clip(name), &small(), 1).unwrap();
        assert_eq!(clip.total_frames, total, "{name}");
        assert!(
            (clip.total_frames as f64 / clip.fps - seconds).abs() < 1e-9,
            "{name}"
        );
        assert_eq!(flaws, Flaws::default(), "{name}");
    }
    // Cut off, it lacks what its head promises.
    let bytes = std::fs::read(clip("null_frames.avi")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut.avi");
    std::fs::write(&path, &bytes[..bytes.len() * 2 / 3]).unwrap();
    let (clip, flaws) = check(&path, &small(), 1).unwrap();
    assert!(
        clip.total_frames < 71 && flaws != Flaws::default(),
        "{flaws}"
    );
}

/// A copy of the golden folder of images, with one of them changed.
fn folder_with(name: &str, content: Option<&[u8]>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for image in std::fs::read_dir(clip("frames")).unwrap() {
        let image = image.unwrap();
        std::fs::copy(image.path(), folder.path().join(image.file_name())).unwrap();
    }
    match content {
        Some(content) => std::fs::write(folder.path().join(name), content).unwrap(),
        None => std::fs::remove_file(folder.path().join(name)).unwrap(),
    }
    folder
}

/// What is wrong with a folder of images, which must be said of the folder and name the image.
fn folder_refusal(folder: &Path, image: &str) -> VideoError {
    let path = format!("{}#fps=3", folder.display());
    let loaded = load(Path::new(&path), &small()).map(|(clip, _)| clip);
    let error = loaded.expect_err("a bad folder was loaded");
    assert_eq!(error.path(), folder);
    let text = error.to_string();
    assert!(
        text.contains(&folder.join(image).display().to_string()),
        "{text}"
    );
    error
}

#[test]
fn bad_images_of_a_folder_are_named() {
    let image = |name: &str| std::fs::read(clip("frames").join(name)).unwrap();
    let (jpeg, png) = (image("00003.jpg"), image("00004.jpg"));
    let mut scratched = png.clone();
    let middle = png.len() / 2;
    scratched[middle] ^= 0x10;
    for (name, content) in [
        ("00003.jpg", &jpeg[..jpeg.len() / 2]),
        ("00003.jpg", &jpeg[..40]),
        ("00003.jpg", b"no image"),
        ("00003.jpg", b""),
        ("00004.jpg", &png[..png.len() / 2]),
        ("00004.jpg", &scratched),
    ] {
        let folder = folder_with(name, Some(content));
        let error = folder_refusal(folder.path(), name);
        assert!(matches!(error, VideoError::Image { .. }), "{error}");
    }
    let folder = folder_with("00005.jpg", None);
    let error = folder_refusal(folder.path(), "00005.jpg");
    assert!(matches!(error, VideoError::MissingImage { .. }), "{error}");

    let other = folder_with("00002.jpg", None);
    let video = std::fs::read(clip("one_frame.mp4")).unwrap();
    std::fs::write(other.path().join("00002.jpg"), video).unwrap();
    let error = folder_refusal(other.path(), "00002.jpg");
    assert!(
        error.to_string().contains("neither a JPEG nor a PNG"),
        "{error}"
    );
}

#[test]
fn images_of_another_size_are_named() {
    // One grey pixel.
    let small_png = b"\x89PNG\x0d\x0a\x1a\x0a\x00\x00\x00\x0dIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU\
        \x00\x00\x00\x0aIDATx\x9cch\x00\x00\x00\x82\x00\x81w\xcdr\xb6\x00\x00\x00\x00IEND\xaeB`\x82";
    let folder = folder_with("00009.jpg", Some(small_png));
    let error = folder_refusal(folder.path(), "00009.jpg");
    assert!(
        matches!(
            error,
            VideoError::ImageSize {
                width: 1,
                height: 1,
                first: [84, 60],
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_folder_needs_images_and_a_rate() {
    let folder = tempfile::tempdir().unwrap();
    let error = refusal(folder.path());
    assert!(matches!(error, VideoError::NoImages { .. }), "{error}");
    let error = refusal(&clip("frames"));
    assert!(matches!(error, VideoError::NoFolderRate { .. }), "{error}");
    let path = |fragment: &str| PathBuf::from(format!("{}{fragment}", clip("frames").display()));
    let (whole, _) = load(&path("#fps=3"), &small()).unwrap();
    assert_eq!(whole.total_frames, 9);
    assert!((whole.fps - 3.0).abs() < 1e-12);
    let (part, _) = load(&path("#t=1,2&fps=3"), &small()).unwrap();
    assert_eq!(part.indices, [3, 4, 5, 6]);
    let (file, _) = load(
        &PathBuf::from(format!("{}#fps=5", clip("h264.mp4").display())),
        &small(),
    )
    .unwrap();
    let is_five = (file.fps - 5.0).abs() < 1e-12;
    assert!(is_five, "the path's rate holds for a file too");
}

#[test]
fn an_animated_gif_has_the_rate_of_all_its_frames() {
    let (found, _) = load(&clip("partial.gif"), &small()).unwrap();
    assert_eq!(found.total_frames, 12);
    // The delays in scripts/make_golden_video.py add up to 2.7 seconds.
    assert!((found.fps - 12.0 / 2.7).abs() < 1e-9, "{}", found.fps);
}

#[test]
fn a_playlist_does_not_open_other_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(clip("h264.mp4"), folder.path().join("other.mp4")).unwrap();
    for (name, text) in [
        (
            "hls.mp4",
            "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nother.mp4\n#EXT-X-ENDLIST\n",
        ),
        ("concat.mp4", "ffconcat version 1.0\nfile other.mp4\n"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let error = refusal(&path);
        assert!(matches!(error, VideoError::NotAVideo { .. }), "{error}");
    }
}

#[test]
fn a_pipe_is_refused_without_waiting_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pipe.mp4");
    let made = std::process::Command::new("mkfifo").arg(&path).status();
    if made.is_ok_and(|status| status.success()) {
        assert!(matches!(refusal(&path), VideoError::NotAFile { .. }));
    } else {
        eprintln!("skipped: no mkfifo command here");
    }
}

#[test]
fn odd_names_are_plain_names() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a:b.mp4", "http:x.mp4", "50% of %d.mp4", "ä ö.mp4"] {
        let path = folder.path().join(name);
        std::fs::copy(clip("h264.mp4"), &path).unwrap();
        assert_eq!(load(&path, &small()).unwrap().0.total_frames, 64, "{name}");
    }
}

#[test]
fn a_cut_off_stream_gives_the_frames_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(clip("vp9.webm")).unwrap();
    let path = folder.path().join("cut_off.webm");
    std::fs::write(&path, &whole[..whole.len() * 6 / 10]).unwrap();
    let (clip, frames) = load(&path, &small()).unwrap();
    assert!(
        (4..48).contains(&clip.total_frames),
        "{}",
        clip.total_frames
    );
    assert_eq!(frames.shape[0], clip.indices.len());
}

#[test]
fn damaged_bytes_never_stop_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(clip("h264.mp4")).unwrap();
    let path = folder.path().join("damaged.mp4");
    for seed in 0..24u32 {
        let mut bytes = whole.clone();
        for k in 0..30u32 {
            let random = (seed * 1000 + k).wrapping_mul(2_654_435_761);
            let at = random as usize % bytes.len();
            bytes[at] ^= 1 << (random >> 29);
        }
        std::fs::write(&path, &bytes).unwrap();
        match load(&path, &small()) {
            Ok((clip, frames)) => assert_eq!(frames.shape[0], clip.indices.len()),
            Err(error) => assert_eq!(error.path(), path),
        }
    }
}

#[test]
fn contradicting_pixel_bounds_are_named() {
    let config = VideoConfig {
        min_pixels: 20_000,
        max_pixels: 10_000,
        ..small()
    };
    let error = load(&clip("h264.mp4"), &config).unwrap_err();
    assert!(
        error.to_string().contains("video.min_pixels = 20000"),
        "{error}"
    );
}

fn loader() -> ClipLoader {
    ClipLoader::new(&small(), &DataConfig::default()).unwrap()
}

#[test]
fn prefetching_keeps_the_order_and_passes_errors_on() {
    let names = [
        "h264.mp4",
        "vfr.mp4",
        "absent.mp4",
        "odd.webm",
        "odd.webm",
        "h264.mp4",
    ];
    let jobs: Vec<PathBuf> = names.iter().map(|name| clip(name)).collect();
    let prefetcher = Prefetcher::new(jobs.clone(), loader(), 64 << 20, 3).unwrap();
    let results: Vec<_> = prefetcher.collect();
    assert_eq!(results.len(), jobs.len());
    for (result, path) in results.iter().zip(&jobs) {
        assert_eq!(*result, load_patches(path, &small()));
    }
    assert!(results[2].is_err());
    let patches = |i: usize| &results[i].as_ref().unwrap().1;
    assert!(
        Arc::ptr_eq(patches(3), patches(4)),
        "equal neighbours are decoded once"
    );
}

#[test]
fn prefetching_reuses_a_clip_that_is_still_held() {
    let jobs = vec![clip("h264.mp4"), clip("odd.webm"), clip("h264.mp4")];
    let mut prefetcher = Prefetcher::new(jobs, loader(), 0, 2).unwrap();
    let first = prefetcher.next().unwrap().unwrap().1;
    prefetcher.next().unwrap().unwrap();
    let third = prefetcher.next().unwrap().unwrap().1;
    assert!(Arc::ptr_eq(&first, &third));
    assert!(prefetcher.next().is_none());
}

#[test]
fn prefetching_stays_within_its_memory() {
    let jobs = vec![
        clip("h264.mp4"),
        clip("odd.webm"),
        clip("vfr.mp4"),
        clip("gops.mp4"),
    ];
    let count = jobs.len();
    let mut prefetcher = Prefetcher::new(jobs, loader(), 0, 3).unwrap();
    for _ in 0..count {
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(
            prefetcher.ready() <= 1,
            "no room for more than the clip that is due"
        );
        prefetcher.next().unwrap().unwrap();
    }
    assert!(prefetcher.next().is_none());
}

#[test]
fn dropping_a_prefetcher_ends_it() {
    let jobs = vec![clip("h264.mp4"); 50];
    let alternating = jobs
        .into_iter()
        .enumerate()
        .map(|(i, job)| if i % 2 == 0 { job } else { clip("vfr.mp4") });
    let mut prefetcher = Prefetcher::new(alternating.collect(), loader(), 1 << 30, 2).unwrap();
    prefetcher.next().unwrap().unwrap();
    drop(prefetcher);
}
