//! Which FFmpeg decodes: a library's version can change a pixel.

/// The versions of the FFmpeg libraries in use, such as `libavcodec 61.19.101, libavformat 61.7.100, libswscale 8.3.100`.
pub fn decoder_version() -> String {
    let text = |name: &str, version: u32| {
        let (major, minor, micro) = (version >> 16, version >> 8 & 0xff, version & 0xff);
        format!("{name} {major}.{minor}.{micro}")
    };
    [
        text("libavcodec", ffmpeg_next::codec::version()),
        text("libavformat", ffmpeg_next::format::version()),
        text("libswscale", ffmpeg_next::software::scaling::version()),
    ]
    .join(", ")
}

/// The usual codecs that this FFmpeg cannot decode.
pub(crate) fn missing_decoders() -> Vec<&'static str> {
    use ffmpeg_next::codec::Id;
    use ffmpeg_next::codec::decoder::find;
    let usual = [
        ("H.264", Id::H264),
        ("HEVC", Id::HEVC),
        ("VP9", Id::VP9),
        ("AV1", Id::AV1),
    ];
    let missing = usual
        .into_iter()
        // FFmpeg's own decoder of AV1 needs a graphics card.
        .filter(|(_, codec)| find(*codec).is_none_or(|decoder| decoder.name() == "av1"));
    missing.map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_library_has_three_numbers() {
        let version = super::decoder_version();
        assert!(version.starts_with("libavcodec "), "{version}");
        for library in version.split(", ") {
            let (_, numbers) = library.split_once(' ').unwrap();
            let numbers: Vec<u32> = numbers.split('.').map(|n| n.parse().unwrap()).collect();
            assert_eq!(numbers.len(), 3, "{version}");
            assert!(numbers[0] > 0, "{version}");
        }
    }
}
