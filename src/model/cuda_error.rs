//! Error codes of the CUDA libraries in a user's words: what happened, and what can be done about it.
//!
//! They come from candle and its libraries as texts such as `DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")`,
//! inside whatever error carries them; they are put into words where that error is shown, so that no code is missed.

use regex::Captures;
use regex::Regex;
use std::fmt;
use std::sync::LazyLock;

/// The words by which page-locked memory is told from the GPU's: the driver has one code for both.
pub(crate) const PAGE_LOCKED: &str = "page-locked host memory";

/// The GPU in use, as far as it still answers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// Its compute capability.
    pub(crate) capability: [i32; 2],
    /// Bytes of its memory.
    pub(crate) bytes: u64,
    /// The most bytes of it that tensors have had.
    pub(crate) most_used: u64,
}

/// What the program was built with and what it runs with.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Surroundings {
    /// The GPU, once one was opened.
    pub(crate) gpu: Option<Gpu>,
    /// GPUs that this process sees.
    pub(crate) gpus: usize,
    /// The newest CUDA that the driver knows, as its major and minor number; `None` where no driver answers.
    pub(crate) driver: Option<[i32; 2]>,
    /// The compute capability that the kernels are built for, without its dot: `80`; empty without CUDA.
    pub(crate) built_for: String,
}

/// What a code means to a user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    OutOfMemory,
    OutOfPageLocked,
    OldDriver,
    OtherCapability,
    NoGpu,
    NoSuchGpu,
    Busy,
    Stub,
    NoCompiler,
    Driver,
    Libraries,
    Fault,
}

impl Kind {
    fn of(code: &str, page_locked: bool) -> Option<Self> {
        let code = code.trim_start_matches("CUDA_ERROR_");
        Some(match code {
            "OUT_OF_MEMORY" if page_locked => Self::OutOfPageLocked,
            "OUT_OF_MEMORY"
            | "CUBLAS_STATUS_ALLOC_FAILED"
            // cuBLAS says so when there is no room for its handle.
            | "CUBLAS_STATUS_NOT_INITIALIZED"
            | "CURAND_STATUS_ALLOCATION_FAILED" => Self::OutOfMemory,
            "UNSUPPORTED_PTX_VERSION" => Self::OldDriver,
            "NO_BINARY_FOR_GPU" | "INVALID_PTX" | "INVALID_IMAGE" | "INVALID_SOURCE" => {
                Self::OtherCapability
            }
            "NO_DEVICE" => Self::NoGpu,
            "INVALID_DEVICE" => Self::NoSuchGpu,
            "DEVICE_UNAVAILABLE" => Self::Busy,
            "STUB_LIBRARY" => Self::Stub,
            "JIT_COMPILER_NOT_FOUND" => Self::NoCompiler,
            "NOT_INITIALIZED"
            | "DEINITIALIZED"
            | "DEVICE_NOT_LICENSED"
            | "SYSTEM_NOT_READY"
            | "SYSTEM_DRIVER_MISMATCH"
            | "COMPAT_NOT_SUPPORTED_ON_DEVICE"
            | "OPERATING_SYSTEM"
            | "UNKNOWN" => Self::Driver,
            "CUBLAS_STATUS_ARCH_MISMATCH"
            | "CUBLAS_STATUS_NOT_SUPPORTED"
            | "CURAND_STATUS_INITIALIZATION_FAILED"
            | "CURAND_STATUS_VERSION_MISMATCH"
            | "CURAND_STATUS_ARCH_MISMATCH"
            | "SHARED_OBJECT_SYMBOL_NOT_FOUND"
            | "SHARED_OBJECT_INIT_FAILED" => Self::Libraries,
            "ILLEGAL_ADDRESS"
            | "MISALIGNED_ADDRESS"
            | "ILLEGAL_INSTRUCTION"
            | "INVALID_ADDRESS_SPACE"
            | "INVALID_PC"
            | "LAUNCH_FAILED"
            | "LAUNCH_TIMEOUT"
            | "LAUNCH_OUT_OF_RESOURCES"
            | "ASSERT"
            | "HARDWARE_STACK_ERROR"
            | "ECC_UNCORRECTABLE"
            | "NVLINK_UNCORRECTABLE"
            | "CONTAINED"
            | "CUBLAS_STATUS_EXECUTION_FAILED"
            | "CUBLAS_STATUS_MAPPING_ERROR"
            | "CUBLAS_STATUS_INTERNAL_ERROR"
            | "CURAND_STATUS_LAUNCH_FAILURE"
            | "CURAND_STATUS_INTERNAL_ERROR" => Self::Fault,
            _ => return None,
        })
    }

    fn advice(self, with: &Surroundings) -> String {
        match self {
            Self::OutOfMemory => out_of_memory(with.gpu.as_ref()),
            Self::OutOfPageLocked => format!(
                "the system gives no more {PAGE_LOCKED}, which optimizer.memory = \"host\" and model.bias_placement = \"host\" \
                 copy through: raise its limits (ulimit -l, a container's or a job's memory), or set optimizer.memory = \
                 \"compact\" and model.bias_placement = \"int8\", which keep everything on the GPU"
            ),
            Self::OldDriver => {
                let known = with.driver.map_or_else(String::new, |[major, minor]| {
                    format!(", which knows CUDA up to {major}.{minor},")
                });
                format!(
                    "the driver{known} is older than the compiler that the kernels were built with: update the driver, or \
                     build again with an nvcc of the driver's version on the PATH (scripts/cuda_build.sh)"
                )
            }
            Self::OtherCapability => other_capability(with),
            Self::NoGpu => {
                "this process sees no GPU: `nvidia-smi -L` must list one, a container must be given it (docker run --gpus \
                 all), and CUDA_VISIBLE_DEVICES must not hide it"
                    .to_owned()
            }
            Self::NoSuchGpu => format!(
                "this process sees {}, numbered from 0 (`nvidia-smi -L`; CUDA_VISIBLE_DEVICES chooses): set model.device to \
                 one of them",
                match with.gpus {
                    1 => "1 GPU".to_owned(),
                    gpus => format!("{gpus} GPUs"),
                }
            ),
            Self::Busy => {
                "another process has the GPU, which gives itself to one at a time (`nvidia-smi -q -d COMPUTE` shows \
                 Exclusive_Process): end that process (`nvidia-smi` lists it), take another GPU (CUDA_VISIBLE_DEVICES), or let an \
                 administrator set the mode back (`nvidia-smi -c DEFAULT`)"
                    .to_owned()
            }
            Self::Stub => {
                "the libcuda.so.1 that was found is a toolkit's stub for linking and not the driver's: take lib/stubs off \
                 LD_LIBRARY_PATH"
                    .to_owned()
            }
            Self::NoCompiler => {
                "the driver's compiler for kernels, libnvidia-ptxjitcompiler.so.1, is not found: it is part of the driver, and a \
                 container gets it with NVIDIA_DRIVER_CAPABILITIES=compute,utility"
                    .to_owned()
            }
            Self::Driver => {
                "the driver does not work: `nvidia-smi` must show the GPU without an error. After an update of the driver \
                 load its modules anew (or restart the machine); on a machine with NVSwitch, nvidia-fabricmanager must run"
                    .to_owned()
            }
            Self::Libraries => {
                "the CUDA libraries that were found do not go with this GPU or with this program: cuBLAS and cuRAND must be of \
                 the CUDA that it was built with (`. scripts/lib/cuda_libraries.sh` puts those of a Python with PyTorch on \
                 the path; `ldd` of the program shows what is taken)"
                    .to_owned()
            }
            Self::Fault => {
                "a computation on the GPU went wrong, which no setting mends; a training goes on from its last checkpoint when \
                 it is started again. If it happens again, `inspect device kernels` checks the kernels on this GPU, and \
                 `dmesg | grep -i xid` and `nvidia-smi -q -d ECC` tell of a broken one"
                    .to_owned()
            }
        }
    }
}

fn out_of_memory(gpu: Option<&Gpu>) -> String {
    let card = gpu.map_or_else(
        || "the GPU has no memory left.".to_owned(),
        |gpu| {
            let gb = |bytes: u64| bytes as f64 / 1e9;
            let [all, used] = [gb(gpu.bytes), gb(gpu.most_used)];
            let others = if used < 0.75 * all {
                "; other programs may have the rest (`nvidia-smi` lists them)"
            } else {
                ""
            };
            format!(
                "{} has {all:.1} GB of memory, of which tensors had {used:.1} GB{others}.",
                gpu.name
            )
        },
    );
    format!(
        "{card} In training, less is taken by optimizer.memory = \"compact\" or \"host\", by model.bias_placement = \
         \"int8\" or \"host\", by fewer train.questions_per_step and by shorter sampling.max_new_tokens, while sampling \
         also by fewer sampling.max_rows; in eval by fewer eval.batch_size and sampling.max_rows; everywhere by fewer \
         video.max_frames and video.max_pixels. `estimate` (or --dry-run) adds up what a training takes"
    )
}

fn other_capability(with: &Surroundings) -> String {
    let built = &with.built_for;
    let dotted = |digits: &str| match digits.len().checked_sub(1) {
        Some(split) if split > 0 => format!("{}.{}", &digits[..split], &digits[split..]),
        _ => digits.to_owned(),
    };
    let here = with.gpu.as_ref().map(|gpu| gpu.capability);
    let (this, rebuild) = match here {
        Some([major, minor]) => (
            format!("this GPU has {major}.{minor}"),
            format!("CUDA_COMPUTE_CAP={major}{minor}"),
        ),
        None => (
            "this GPU has another (`nvidia-smi --query-gpu=compute_cap --format=csv`)".to_owned(),
            "CUDA_COMPUTE_CAP=NN".to_owned(),
        ),
    };
    let from_90 = if built.parse().is_ok_and(|built: u32| built >= 90) {
        "alone"
    } else {
        "and later ones"
    };
    format!(
        "the kernels are built for compute capability {} {from_90}, and {this}: build again with {rebuild} \
         scripts/cuda_build.sh",
        dotted(built)
    )
}

static CODE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r#"(Driver|Cublas|Curand)Error\((\w+)(?:, "([^"]*)")?\)"#).ok());

/// `message` with the codes of CUDA's libraries in words.
pub(crate) fn plain_words(message: &str) -> String {
    CODE.as_ref().map_or_else(
        || message.to_owned(),
        |code| code.replace_all(message, Words).into_owned(),
    )
}

/// As [`plain_words`], and behind it what can be done about each kind of code.
pub(crate) fn in_words(message: &str, with: impl FnOnce() -> Surroundings) -> String {
    let mut text = plain_words(message);
    let Some(code) = &*CODE else {
        return text;
    };
    let page_locked = message.contains(PAGE_LOCKED);
    let mut kinds: Vec<Kind> = code
        .captures_iter(message)
        .filter_map(|found| Kind::of(&found[2], page_locked))
        .collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() {
        return text;
    }
    let with = with();
    for kind in kinds {
        text.push_str("\n  what to do: ");
        text.push_str(&kind.advice(&with));
    }
    text
}

/// `out of memory (CUDA_ERROR_OUT_OF_MEMORY)` for `DriverError(CUDA_ERROR_OUT_OF_MEMORY, "out of memory")`.
struct Words;

impl regex::Replacer for Words {
    fn replace_append(&mut self, found: &Captures<'_>, text: &mut String) {
        let code = &found[2];
        let words = match (found.get(3), &found[1]) {
            (Some(words), _) => format!("CUDA: {} ({code})", words.as_str()),
            (None, library) => format!("{}: {code}", Library(library)),
        };
        text.push_str(&words);
    }
}

/// A library by the name that its makers write.
struct Library<'a>(&'a str);

impl fmt::Display for Library<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            "Cublas" => "cuBLAS",
            "Curand" => "cuRAND",
            _ => "CUDA",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Surroundings {
        Surroundings {
            gpu: Some(Gpu {
                name: "NVIDIA H100 80GB HBM3".to_owned(),
                capability: [9, 0],
                bytes: 85_000_000_000,
                most_used: 84_300_000_000,
            }),
            gpus: 2,
            driver: Some([12, 4]),
            built_for: "80".to_owned(),
        }
    }

    /// As the driver's Rust bindings print it.
    fn driver(code: &str, text: &str) -> String {
        format!("DriverError(CUDA_ERROR_{code}, \"{text}\")")
    }

    /// Each message, and what the user must find.
    #[track_caller]
    fn assert_say(cases: &[(String, &[&str])]) {
        for (message, wanted) in cases {
            let text = in_words(message, here);
            assert!(!text.contains("Error("), "{text}");
            for words in *wanted {
                assert!(text.contains(words), "no `{words}` in {text}");
            }
            assert_eq!(text.matches("what to do: ").count(), 1, "{text}");
        }
    }

    #[test]
    fn work_that_fails_says_what_to_do() {
        let old = "the provided PTX was compiled with an unsupported toolchain.";
        let cases = [
            (
                driver("OUT_OF_MEMORY", "out of memory"),
                &[
                    "CUDA: out of memory (CUDA_ERROR_OUT_OF_MEMORY)",
                    "NVIDIA H100 80GB HBM3 has 85.0 GB of memory, of which tensors had 84.3 GB.",
                    "optimizer.memory = \"compact\"",
                    "model.bias_placement",
                    "sampling.max_rows",
                    "video.max_pixels",
                ][..],
            ),
            (
                "CublasError(CUBLAS_STATUS_ALLOC_FAILED)".to_owned(),
                &["cuBLAS: CUBLAS_STATUS_ALLOC_FAILED", "85.0 GB"],
            ),
            (
                "CurandError(CURAND_STATUS_ALLOCATION_FAILED)".to_owned(),
                &["cuRAND: CURAND_STATUS_ALLOCATION_FAILED", "85.0 GB"],
            ),
            (
                format!(
                    "64 MB of {PAGE_LOCKED}: {}",
                    driver("OUT_OF_MEMORY", "out of memory")
                ),
                &["ulimit -l", "model.bias_placement = \"int8\""],
            ),
            (
                format!(
                    "{} when loading decode",
                    driver("UNSUPPORTED_PTX_VERSION", old)
                ),
                &[
                    "CUDA up to 12.4",
                    "update the driver",
                    "when loading decode",
                ],
            ),
            (
                driver("NO_BINARY_FOR_GPU", "no kernel image is available"),
                &[
                    "built for compute capability 8.0 and later ones",
                    "has 9.0",
                    "CUDA_COMPUTE_CAP=90",
                ],
            ),
            (
                "CublasError(CUBLAS_STATUS_ARCH_MISMATCH)".to_owned(),
                &["cuda_libraries.sh"],
            ),
            (
                driver(
                    "ILLEGAL_ADDRESS",
                    "an illegal memory access was encountered",
                ),
                &["last checkpoint", "inspect device kernels"],
            ),
        ];
        assert_say(&cases);
    }

    #[test]
    fn a_card_that_cannot_be_used_says_why() {
        let cases = [
            (
                driver("NO_DEVICE", "no CUDA-capable device is detected"),
                &["sees no GPU", "nvidia-smi -L", "docker run --gpus all"][..],
            ),
            (
                driver("INVALID_DEVICE", "invalid device ordinal"),
                &["sees 2 GPUs, numbered from 0"],
            ),
            (
                driver(
                    "DEVICE_UNAVAILABLE",
                    "CUDA-capable device(s) is/are busy or unavailable",
                ),
                &["another process has the GPU", "Exclusive_Process"],
            ),
            (
                driver(
                    "JIT_COMPILER_NOT_FOUND",
                    "PTX JIT compiler library not found",
                ),
                &["NVIDIA_DRIVER_CAPABILITIES=compute"],
            ),
            (
                driver("STUB_LIBRARY", "CUDA driver is a stub library"),
                &["take lib/stubs off"],
            ),
            (
                driver(
                    "SYSTEM_DRIVER_MISMATCH",
                    "system has unsupported display driver",
                ),
                &["nvidia-smi"],
            ),
        ];
        assert_say(&cases);
    }

    #[test]
    fn the_out_of_memory_of_the_host_is_told_from_the_gpus() {
        let code = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let gpu = in_words(code, here);
        let host = in_words(&format!("64 MB of {PAGE_LOCKED}: {code}"), here);
        assert!(gpu.contains("85.0 GB") && !gpu.contains("ulimit"));
        assert!(host.contains("ulimit") && !host.contains("85.0 GB"));
    }

    #[test]
    fn memory_that_others_have_is_named() {
        let code = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let mut with = here();
        if let Some(gpu) = &mut with.gpu {
            gpu.most_used = 20_000_000_000;
        }
        let text = in_words(code, || with);
        assert!(
            text.contains("tensors had 20.0 GB; other programs"),
            "{text}"
        );
        let unknown = in_words(code, Surroundings::default);
        assert!(unknown.contains("the GPU has no memory left"), "{unknown}");
    }

    #[test]
    fn kernels_for_one_capability_alone_are_said_to_be() {
        let code = "DriverError(CUDA_ERROR_INVALID_PTX, \"a PTX JIT compilation failed\")";
        let with = Surroundings {
            built_for: "90".to_owned(),
            gpu: Some(Gpu {
                capability: [10, 0],
                ..Gpu::default()
            }),
            ..here()
        };
        let text = in_words(code, || with);
        assert!(text.contains("9.0 alone, and this GPU has 10.0"), "{text}");
        assert!(text.contains("CUDA_COMPUTE_CAP=100 "), "{text}");
    }

    #[test]
    fn one_advice_is_given_once_and_other_text_is_left_alone() {
        let code = "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")";
        let text = in_words(&format!("{code}; {code}"), here);
        assert_eq!(text.matches("what to do").count(), 1, "{text}");
        let other = "step 3: DriverError(CUDA_ERROR_NEVER_SEEN, \"so\")";
        let text = in_words(other, || unreachable!("nothing is known about it"));
        assert_eq!(text, "step 3: CUDA: so (CUDA_ERROR_NEVER_SEEN)");
        assert_eq!(in_words("the disk is full", here), "the disk is full");
    }
}
