//! Compiles the CUDA sources for the CPU and runs launches there.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use std::collections::HashMap;
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use videothinker::kernels::launch::{Argument, Emulator, Grid, Launch, emulated};

/// As `emulator.hpp` declares it: grid and block, arguments, their number; 0 when the kernel ran.
type Entry = unsafe extern "C" fn(*const u32, *const u64, u32) -> i32;

/// Bytes kept around every tensor, in which a kernel must not write.
const MARGIN: usize = 256;
const UNTOUCHED: u8 = 0xa5;

/// Runs `body`, in which this thread's kernels run on the CPU.
pub(crate) fn on_cpu<T>(body: impl FnOnce() -> T) -> T {
    let emulator: Emulator = Rc::new(|launch: &Launch, grid: Grid| run(launch, grid));
    emulated(&emulator, body)
}

/// The library made of one source file, compiled when first asked for.
///
/// Each file has a library of its own with hidden names: the compiler would merge templates of one name in two files.
fn library(module: &'static str, known: &mut HashMap<&'static str, usize>) -> usize {
    *known.entry(module).or_insert_with(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
        let library = folder.join(format!("{module}-{}.so", std::process::id()));
        let output = Command::new(&compiler)
            .args([
                "-std=c++17",
                "-O1",
                "-ffp-contract=off",
                "-fno-strict-aliasing",
            ])
            .args([
                "-Wall",
                "-Wno-unknown-pragmas",
                "-Wno-unused-function",
                "-Werror",
            ])
            .args(["-shared", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique"])
            .args(["-DEMULATED", "-I"])
            .arg(root.join("tests/kernels"))
            .args(["-x", "c++"])
            .arg(root.join(format!("src/kernels/cuda/{module}.cu")))
            .arg("-o")
            .arg(&library)
            .output()
            .unwrap_or_else(|error| panic!("{}: {error}", compiler.display()));
        let messages = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{messages}");
        let name = CString::new(library.to_str().unwrap()).unwrap();
        #[expect(
            unsafe_code,
            reason = "loading a library is unsafe; this one was made just above"
        )]
        let handle = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!handle.is_null(), "{} cannot be loaded", library.display());
        std::fs::remove_file(&library).unwrap();
        handle as usize
    })
}

/// A tensor's memory as the kernel sees it: a copy with a margin on both sides.
struct Guarded {
    address: *mut u8,
    len: usize,
    /// Of 16-byte words, so that the copy is aligned as a GPU's memory is.
    copy: Vec<u128>,
}

impl Guarded {
    #[expect(unsafe_code, reason = "a storage's bytes whatever their type")]
    fn new(address: *mut u8, len: usize) -> Self {
        let mut guarded = Self {
            address,
            len,
            copy: vec![0; (len + 2 * MARGIN).div_ceil(16)],
        };
        guarded.bytes().fill(UNTOUCHED);
        let values = unsafe { std::slice::from_raw_parts(address, len) };
        guarded.bytes()[MARGIN..MARGIN + len].copy_from_slice(values);
        guarded
    }

    #[expect(unsafe_code, reason = "words seen as bytes")]
    fn bytes(&mut self) -> &mut [u8] {
        let len = self.copy.len() * 16;
        unsafe { std::slice::from_raw_parts_mut(self.copy.as_mut_ptr().cast(), len) }
    }

    #[expect(
        unsafe_code,
        reason = "writes to the storage what the kernel wrote to its copy"
    )]
    fn give_back(&mut self, kernel: &str) {
        let (address, len) = (self.address, self.len);
        let bytes = self.bytes();
        let around = bytes[..MARGIN].iter().chain(&bytes[MARGIN + len..]);
        assert!(
            around.clone().all(|byte| *byte == UNTOUCHED),
            "kernel {kernel} writes outside a tensor"
        );
        let values = &bytes[MARGIN..MARGIN + len];
        // A tensor that is only read may be shared with other threads: it is left alone.
        let before = unsafe { std::slice::from_raw_parts(address, len) };
        if before != values {
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), address, len) }
        }
    }
}

fn run(launch: &Launch, grid: Grid) -> Result<()> {
    // Held during the launch: a library has the state of one.
    static LIBRARIES: Mutex<Option<HashMap<&'static str, usize>>> = Mutex::new(None);
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    let library = library(launch.module.name, libraries.get_or_insert_default());
    let mut memory: Vec<Guarded> = Vec::new();
    let mut arguments = Vec::new();
    for argument in &launch.arguments {
        arguments.push(match argument {
            Argument::Scalar(value) => *value,
            Argument::Tensor(tensor) => {
                let (address, len) = memory_of(tensor)?;
                let known = memory
                    .iter()
                    .position(|other| other.address == address && other.len == len);
                let index = known.unwrap_or_else(|| {
                    memory.push(Guarded::new(address, len));
                    memory.len() - 1
                });
                memory[index].bytes()[MARGIN..].as_ptr() as u64
            }
        });
    }
    let name = CString::new(format!("emulate_{}", launch.kernel)).unwrap();
    let [x, y, z] = grid.blocks;
    let dimensions = [x, y, z, grid.threads, grid.shared_bytes];
    #[expect(
        unsafe_code,
        reason = "calls the entry that emulator.hpp declares under this name"
    )]
    let result = unsafe {
        let entry = libc::dlsym(library as *mut c_void, name.as_ptr());
        if entry.is_null() {
            bail!("there is no kernel {}", launch.kernel);
        }
        let entry: Entry = std::mem::transmute(entry);
        entry(
            dimensions.as_ptr(),
            arguments.as_ptr(),
            arguments.len() as u32,
        )
    };
    match result {
        0 => memory
            .iter_mut()
            .for_each(|guarded| guarded.give_back(&launch.kernel)),
        1 => bail!(
            "kernel {}: {} arguments are not what it takes",
            launch.kernel,
            arguments.len()
        ),
        _ => bail!("kernel {}: {} threads a block", launch.kernel, grid.threads),
    }
    Ok(())
}

fn memory_of(tensor: &Tensor) -> Result<(*mut u8, usize)> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("not on the CPU");
    };
    let start = layout.start_offset() * tensor.dtype().size_in_bytes();
    let len = layout.shape().elem_count() * tensor.dtype().size_in_bytes();
    let base = match storage {
        CpuStorage::U8(values) => values.as_ptr().cast::<u8>(),
        CpuStorage::U32(values) => values.as_ptr().cast(),
        CpuStorage::I16(values) => values.as_ptr().cast(),
        CpuStorage::I64(values) => values.as_ptr().cast(),
        CpuStorage::BF16(values) => values.as_ptr().cast(),
        CpuStorage::F16(values) => values.as_ptr().cast(),
        CpuStorage::F32(values) => values.as_ptr().cast(),
        CpuStorage::F64(values) => values.as_ptr().cast(),
        _ => bail!("kernels take no tensor of {:?}", tensor.dtype()),
    };
    Ok((base.wrapping_add(start).cast_mut(), len))
}
