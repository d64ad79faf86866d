//! The calls into FFmpeg that its Rust wrapper lacks or does wrongly: opening with limits, colour conversion, logging.
//!
//! All `unsafe` of the video path is here (apart from one call in `resize` into code for checked CPU features).

use ffmpeg_next::ffi;
use ffmpeg_next::format::context::Input;
use ffmpeg_next::{Dictionary, Error, Packet, Stream, frame};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::path::Path;
use std::ptr;
use std::sync::Once;

/// Pixels per frame that are decoded at most (8192 × 4320).
pub(super) const MAX_PIXELS: usize = 8192 * 4320;
/// Largest single allocation inside FFmpeg: a forged header of a few bytes can ask for gigabytes.
const MAX_ALLOCATION: usize = 512 << 20;
/// Containers that hold their own pictures. Playlists (HLS, concat, DASH) are left out: a file given as a
/// clip must not make us open another one.
const FORMATS: &str = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,flv,mpegts,mpeg,mpegvideo,asf,ogg,gif,apng,\
                       h264,hevc,m4v,ivf,rm";

/// Prepares FFmpeg for this process: allocation limit, error texts, log. Called by every entry point.
pub(crate) fn init() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if let Err(error) = ffmpeg_next::init() {
            tracing::warn!("FFmpeg did not initialise: {error}");
        }
        limit_allocations();
        log::install();
    });
}

#[expect(unsafe_code, reason = "the wrapper has no call for it")]
fn limit_allocations() {
    // SAFETY: sets one number; runs once, before any other FFmpeg call of ours.
    unsafe { ffi::av_max_alloc(MAX_ALLOCATION) }
}

/// Opens a plain file and probes its streams. `interrupted` is asked during input and stops it.
#[expect(
    unsafe_code,
    reason = "the wrapper passes no options to the probing decoders"
)]
pub(super) fn open<F>(path: &Path, interrupted: F) -> Result<Input, Error>
where
    F: FnMut() -> bool + Send + 'static,
{
    // The prefix keeps FFmpeg from reading "a:b.mp4" as protocol "a".
    let mut name = b"file:".to_vec();
    name.extend_from_slice(path.as_os_str().as_encoded_bytes());
    let name = CString::new(name).map_err(|_| Error::InvalidData)?;
    let mut options = Dictionary::new();
    options.set("protocol_whitelist", "file");
    options.set("format_whitelist", FORMATS);
    options.set("max_streams", "64");
    let interrupt = ffmpeg_next::util::interrupt::new(Box::new(interrupted));
    // SAFETY: the context is allocated here and owned by this function until it is wrapped; on failure FFmpeg frees
    // it in `avformat_open_input`, we close it after a failed probe. The dictionaries are freed after use; there
    // are as many as streams. The interrupt closure outlives the context: its guard is dropped after it.
    unsafe {
        let mut context = ffi::avformat_alloc_context();
        if context.is_null() {
            return Err(Error::Other {
                errno: libc::ENOMEM,
            });
        }
        (*context).interrupt_callback = interrupt.interrupt;
        let mut options = options.disown();
        let code = ffi::avformat_open_input(
            &raw mut context,
            name.as_ptr(),
            ptr::null_mut(),
            &raw mut options,
        );
        ffi::av_dict_free(&raw mut options);
        check(code)?;
        // Probing decodes frames: the pixel limit must reach those decoders too. Nobody sees their pictures, so they need
        // no finish.
        let limit = CString::new(MAX_PIXELS.to_string()).map_err(|_| Error::Bug)?;
        let streams = (*context).nb_streams as usize;
        let mut per_stream = vec![ptr::null_mut(); streams.max(1)];
        for dictionary in &mut per_stream {
            let settings = [
                (c"max_pixels", &*limit),
                (c"skip_loop_filter", c"all"),
                (c"skip_idct", c"all"),
            ];
            for (name, value) in settings {
                ffi::av_dict_set(dictionary, name.as_ptr(), value.as_ptr(), 0);
            }
        }
        let code = ffi::avformat_find_stream_info(context, per_stream.as_mut_ptr());
        for dictionary in &mut per_stream {
            ffi::av_dict_free(dictionary);
        }
        if let Err(error) = check(code) {
            ffi::avformat_close_input(&raw mut context);
            return Err(error);
        }
        Ok(Input::wrap_with_interrupt(context, interrupt.guard))
    }
}

/// Turns an FFmpeg return code into a result.
fn check(code: i32) -> Result<i32, Error> {
    if code < 0 {
        Err(Error::from(code))
    } else {
        Ok(code)
    }
}

/// Makes the demuxer drop the packets of every other stream.
#[expect(
    unsafe_code,
    reason = "the wrapper cannot set a stream's discard level"
)]
pub(super) fn keep_only(input: &mut Input, stream: usize) {
    // SAFETY: the context is valid and exclusively borrowed; indices are below its stream count.
    unsafe {
        let context = input.as_mut_ptr();
        for i in (0..(*context).nb_streams as usize).filter(|&i| i != stream) {
            (**(*context).streams.add(i)).discard = ffi::AVDiscard::AVDISCARD_ALL;
        }
    }
}

/// Width and height in the stream's header.
#[expect(unsafe_code, reason = "the wrapper does not expose them")]
pub(super) fn coded_size(stream: &Stream) -> [usize; 2] {
    let parameters = stream.parameters();
    // SAFETY: the parameters keep their stream alive while borrowed.
    let (width, height) = unsafe { ((*parameters.as_ptr()).width, (*parameters.as_ptr()).height) };
    [width, height].map(|side| side.max(0) as usize)
}

/// What a track of H.264 says once about its pictures, nothing at times; `None` for other tracks.
#[expect(unsafe_code, reason = "the wrapper does not expose it")]
pub(super) fn h264_record(stream: &Stream) -> Option<Vec<u8>> {
    let parameters = stream.parameters();
    if parameters.id() != ffmpeg_next::codec::Id::H264 {
        return None;
    }
    // SAFETY: the parameters keep their stream alive while borrowed; the size is that of the bytes allocated.
    let record = unsafe {
        let data = (*parameters.as_ptr()).extradata;
        let len = usize::try_from((*parameters.as_ptr()).extradata_size).unwrap_or(0);
        if data.is_null() {
            &[]
        } else {
            std::slice::from_raw_parts(data, len)
        }
    };
    Some(record.to_vec())
}

/// Goes to the key packet of a track that is shown at this time, or to one before it; false where the container cannot.
#[expect(unsafe_code, reason = "the wrapper goes by the time of no track")]
pub(super) fn seek(input: &mut Input, stream: usize, pts: i64) -> bool {
    // SAFETY: the context is valid and exclusively borrowed, and the stream is one of its own.
    unsafe {
        ffi::av_seek_frame(
            input.as_mut_ptr(),
            stream as i32,
            pts,
            ffi::AVSEEK_FLAG_BACKWARD,
        ) >= 0
    }
}

/// Whether an edit list cuts this packet's frame away.
#[expect(unsafe_code, reason = "the wrapper truncates the flag")]
pub(super) fn is_hidden(packet: &Packet) -> bool {
    use ffmpeg_next::packet::Ref;
    // SAFETY: a plain field of a packet that is borrowed.
    unsafe { (*packet.as_ptr()).flags & ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// What a conversion depends on: pixel format, width, height, matrix and range of the source.
type Source = [i32; 5];

/// How colours, of which a frame has fewer than pixels, are spread over the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chroma {
    /// As libavfilter's `scale` does it, and with it decord.
    Video,
    /// Smoothly and with exact rounding, as libjpeg does it, and with it Pillow.
    Image,
}

impl Chroma {
    fn scaler_flags(self) -> i32 {
        match self {
            Self::Video => ffi::SWS_BILINEAR,
            Self::Image => ffi::SWS_BILINEAR | ffi::SWS_FULL_CHR_H_INT | ffi::SWS_ACCURATE_RND,
        }
    }
}

/// Decoded frames → RGB.
pub(super) struct ToRgb {
    /// `[width, height]` of every result.
    size: [usize; 2],
    chroma: Chroma,
    scalers: BTreeMap<Source, Scaler>,
    /// Padded rows: the vector code of swscale writes past the end of tight ones, or leaves their tails out.
    buffer: frame::Video,
}

/// An owned swscale context.
struct Scaler(ptr::NonNull<ffi::SwsContext>);

impl Drop for Scaler {
    #[expect(unsafe_code, reason = "frees a C object")]
    fn drop(&mut self) {
        // SAFETY: owned, and freed only here.
        unsafe { ffi::sws_freeContext(self.0.as_ptr()) }
    }
}

impl ToRgb {
    /// Results of `width` × `height` pixels.
    #[expect(unsafe_code, reason = "the wrapper ignores a failed allocation")]
    pub(super) fn new([width, height]: [usize; 2], chroma: Chroma) -> Result<Self, Error> {
        let mut buffer = frame::Video::empty();
        buffer.set_format(ffmpeg_next::format::Pixel::RGB24);
        buffer.set_width(width as u32);
        buffer.set_height(height as u32);
        // SAFETY: the frame is valid, its format and size are set, and it has no buffer yet.
        check(unsafe { ffi::av_frame_get_buffer(buffer.as_mut_ptr(), 64) })?;
        Ok(Self {
            size: [width, height],
            chroma,
            scalers: BTreeMap::new(),
            buffer,
        })
    }

    /// Tight rows `[height, width, 3]`, written to `rgb`.
    #[expect(
        unsafe_code,
        reason = "the wrapper's scaler ignores matrix, range and errors"
    )]
    pub(super) fn convert(
        &mut self,
        decoded: &frame::Video,
        rgb: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let [width, height] = self.size;
        // SAFETY: both frames are valid with buffers; the scaler was made for the source's format and size and for a
        // target of `self.size`; a row of the target holds at least `width * 3` bytes.
        unsafe {
            let source = decoded.as_ptr();
            let key = [
                (*source).format,
                (*source).width,
                (*source).height,
                (*source).colorspace as i32,
                (*source).color_range as i32,
            ];
            let scaler = match self.scalers.entry(key) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Scaler::new(key, self.size, self.chroma)?)
                }
            };
            let target = self.buffer.as_mut_ptr();
            let written = ffi::sws_scale(
                scaler.0.as_ptr(),
                (*source).data.as_ptr().cast(),
                (*source).linesize.as_ptr(),
                0,
                (*source).height,
                (*target).data.as_ptr(),
                (*target).linesize.as_ptr(),
            );
            if check(written)? as usize != height {
                return Err(Error::Bug);
            }
        }
        rgb.clear();
        let stride = self.buffer.stride(0);
        for row in self.buffer.data(0).chunks_exact(stride).take(height) {
            rgb.extend_from_slice(&row[..width * 3]);
        }
        Ok(())
    }
}

impl Scaler {
    /// Bilinear, BT.601 unless the frame says otherwise, full-range RGB out; chroma sited as libavfilter does.
    #[expect(
        unsafe_code,
        reason = "the wrapper cannot set matrix, range and chroma position"
    )]
    fn new(
        [format, width, height, matrix, range]: Source,
        size: [usize; 2],
        chroma: Chroma,
    ) -> Result<Self, Error> {
        // SAFETY: the context is freed by `Scaler` on every path; names are constant C strings; the
        // out-parameters are locals; coefficient tables are static in FFmpeg.
        unsafe {
            let context = ptr::NonNull::new(ffi::sws_alloc_context()).ok_or(Error::Other {
                errno: libc::ENOMEM,
            })?;
            let scaler = Self(context);
            let context = context.as_ptr();
            let set = |name: &std::ffi::CStr, value: i32| {
                check(ffi::av_opt_set_int(
                    context.cast(),
                    name.as_ptr(),
                    value.into(),
                    0,
                ))
            };
            set(c"srcw", width)?;
            set(c"srch", height)?;
            set(c"src_format", format)?;
            set(c"dstw", size[0] as i32)?;
            set(c"dsth", size[1] as i32)?;
            set(c"dst_format", ffi::AVPixelFormat::AV_PIX_FMT_RGB24 as i32)?;
            set(c"sws_flags", chroma.scaler_flags())?;
            if format == ffi::AVPixelFormat::AV_PIX_FMT_YUV420P as i32 {
                set(c"src_v_chr_pos", 128)?;
            }
            check(ffi::sws_init_context(
                context,
                ptr::null_mut(),
                ptr::null_mut(),
            ))?;
            let (mut inverse, mut table) = (ptr::null_mut(), ptr::null_mut());
            let (mut source_range, mut target_range) = (0, 0);
            let (mut brightness, mut contrast, mut saturation) = (0, 0, 0);
            let code = ffi::sws_getColorspaceDetails(
                context,
                &raw mut inverse,
                &raw mut source_range,
                &raw mut table,
                &raw mut target_range,
                &raw mut brightness,
                &raw mut contrast,
                &raw mut saturation,
            );
            if code >= 0 {
                let unspecified = ffi::AVColorSpace::AVCOL_SPC_UNSPECIFIED as i32;
                let matrix = if matrix == unspecified {
                    ffi::SWS_CS_DEFAULT
                } else {
                    matrix
                };
                let full = match range {
                    r if r == ffi::AVColorRange::AVCOL_RANGE_JPEG as i32 => 1,
                    r if r == ffi::AVColorRange::AVCOL_RANGE_MPEG as i32 => 0,
                    _ => source_range,
                };
                ffi::sws_setColorspaceDetails(
                    context,
                    ffi::sws_getCoefficients(matrix),
                    full,
                    ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT),
                    1,
                    brightness,
                    contrast,
                    saturation,
                );
            }
            Ok(scaler)
        }
    }
}

/// FFmpeg's own messages → `tracing`.
mod log {
    use ffmpeg_next::ffi;
    use std::sync::Mutex;
    use std::time::{Duration, Instant};

    /// At most this many messages per [`WINDOW`]; one broken clip can produce hundreds.
    const BURST: u32 = 20;
    const WINDOW: Duration = Duration::from_secs(10);

    /// Start of the window, messages passed on and messages dropped in it.
    static WINDOW_STATE: Mutex<Option<(Instant, u32, u32)>> = Mutex::new(None);

    /// Passes on what FFmpeg calls warnings and worse.
    #[cfg(all(target_arch = "x86_64", unix))]
    #[expect(unsafe_code, reason = "installs a C callback")]
    pub(super) fn install() {
        // SAFETY: the callback has C linkage, lives for ever and may run on any thread.
        unsafe { ffi::av_log_set_callback(Some(forward)) }
    }

    /// Elsewhere the type of a C argument list differs between targets: FFmpeg's messages are dropped.
    #[cfg(not(all(target_arch = "x86_64", unix)))]
    #[expect(unsafe_code, reason = "sets the level of the default C callback")]
    pub(super) fn install() {
        // SAFETY: sets one number.
        unsafe { ffi::av_log_set_level(ffi::AV_LOG_QUIET) }
    }

    #[cfg(all(target_arch = "x86_64", unix))]
    #[expect(unsafe_code, reason = "called by C with C arguments")]
    unsafe extern "C" fn forward(
        object: *mut libc::c_void,
        level: libc::c_int,
        format: *const libc::c_char,
        arguments: *mut ffi::__va_list_tag,
    ) {
        if level > ffi::AV_LOG_WARNING || !admit() {
            return;
        }
        let mut line = [0u8; 512];
        let mut prefix = 1;
        // SAFETY: FFmpeg hands over a valid object, format and argument list; at most `line.len()` bytes are
        // written, closed by a zero.
        unsafe {
            ffi::av_log_format_line2(
                object,
                level,
                format,
                arguments,
                line.as_mut_ptr().cast(),
                line.len() as i32,
                &raw mut prefix,
            );
        }
        let end = line.iter().position(|&b| b == 0).unwrap_or(line.len());
        let text = String::from_utf8_lossy(&line[..end]);
        let text = text.trim_end();
        if level <= ffi::AV_LOG_FATAL {
            tracing::warn!(target: "ffmpeg", "{text}");
        } else {
            tracing::debug!(target: "ffmpeg", "{text}");
        }
    }

    /// Whether one more message fits the window.
    #[cfg(all(target_arch = "x86_64", unix))]
    fn admit() -> bool {
        let Ok(mut state) = WINDOW_STATE.lock() else {
            return false;
        };
        let now = Instant::now();
        let (since, passed, dropped) = state.get_or_insert((now, 0, 0));
        if now.duration_since(*since) > WINDOW {
            if *dropped > 0 {
                tracing::debug!(target: "ffmpeg", "{dropped} more messages were dropped");
            }
            (*since, *passed, *dropped) = (now, 0, 0);
        }
        if *passed < BURST {
            *passed += 1;
            true
        } else {
            *dropped += 1;
            false
        }
    }
}
