//! Compiles the CUDA sources for the CPU and runs launches there.
//!
//! Every launch runs with blocks and threads in a random order, and from the same memory with each access checked (bounds,
//! alignment, races, shared memory that nobody has written); both must give the same bits. Of launches that are alike,
//! as decoding has hundreds, only the first of each test are checked.

use candle_core::{CpuStorage, Result, Storage, Tensor, bail};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use videothinker::model::ops::cuda::launch::{Argument, Emulator, Grid, Launch, emulated};

/// `emulator.hpp`'s `Request`.
#[repr(C)]
struct Request {
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u32,
    count: u32,
    arguments: *const u64,
    seed: u64,
    allowed: Option<unsafe extern "C" fn(usize, usize, bool) -> bool>,
    message: *mut c_char,
    message_bytes: usize,
}

/// An entry point as `emulator.hpp` declares it; its results are the constants below.
type Entry = unsafe extern "C" fn(*const Request) -> i32;
const RAN: i32 = 0;
const WRONG_ARGUMENTS: i32 = 1;
const WRONG_THREADS: i32 = 2;

/// Bytes kept around every tensor, in which a kernel must not write.
const MARGIN: usize = 256;
const UNTOUCHED: u8 = 0xa5;
/// The most that a kernel reads in one access, and what a GPU's memory is aligned to at least.
const ALIGNMENT: usize = 16;

/// As many launches of one kernel and of the same sizes are checked.
const CHECKED_ALIKE: u32 = 6;

/// A launch's kernel, grid, and lengths and alignments of its tensors.
type Sizes = (String, [u32; 5], Vec<(usize, usize)>);

/// Runs `body`, in which this thread's kernels run on the CPU.
pub(crate) fn on_cpu<T>(body: impl FnOnce() -> T) -> T {
    let emulator: Emulator = Rc::new(|launch: &Launch, grid: Grid| run(launch, grid));
    emulated(&emulator, body)
}

/// One source file, compiled both ways.
#[derive(Clone, Copy)]
struct Library {
    /// With checked accesses; threads take turns in ascending and descending order.
    checked: usize,
    plain: usize,
}

/// The library made of one source file, compiled when first asked for. Locked while a kernel runs: the checks have the
/// state of one launch.
///
/// Each file has a library of its own with hidden names: the compiler would merge templates of one name in two files.
fn library(module: &'static str) -> Arc<Mutex<Option<Library>>> {
    type Libraries = HashMap<&'static str, Arc<Mutex<Option<Library>>>>;
    static LIBRARIES: Mutex<Option<Libraries>> = Mutex::new(None);
    let mut libraries = LIBRARIES.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(libraries.get_or_insert_default().entry(module).or_default())
}

/// A file of `src/model/ops/cuda/source`, or of this folder.
fn compiled(module: &str, checked: bool) -> usize {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kernels = root.join("src/model/ops/cuda/source");
    let mut source = kernels.join(module).with_extension("cu");
    if !source.exists() {
        source = root.join("tests/kernels").join(module).with_extension("cu");
    }
    let kind = if checked { "checked" } else { "plain" };
    let name = format!("{module}-{kind}-{}", std::process::id());
    let object = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.o"));
    let library = object.with_extension("so");
    let mut compile = compiler();
    compile
        .args(["-std=c++17", "-O1", "-ffp-contract=off"])
        .args(["-fno-strict-aliasing", "-fPIC", "-fvisibility=hidden"])
        .args(["-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"])
        .args(["-Werror", "-DEMULATED", "-I"])
        .arg(root.join("tests/kernels"))
        .arg("-I")
        .arg(&kernels)
        .args(["-x", "c++", "-c"])
        .arg(&source)
        .arg("-o")
        .arg(&object);
    if checked {
        compile.args(["-DCHECK_ACCESS", "-fsanitize=thread,alignment"]);
    }
    run_command(&mut compile);
    // Linked without the sanitizers' names, which would bring their libraries.
    run_command(
        compiler()
            .arg("-shared")
            .arg(&object)
            .arg("-o")
            .arg(&library),
    );
    let path = CString::new(library.to_str().unwrap()).unwrap();
    #[expect(
        unsafe_code,
        reason = "loading a library is unsafe; this one was made just above"
    )]
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{} cannot be loaded", library.display());
    std::fs::remove_file(&object).unwrap();
    std::fs::remove_file(&library).unwrap();
    handle as usize
}

fn compiler() -> Command {
    Command::new(std::env::var_os("CXX").unwrap_or_else(|| "c++".into()))
}

fn run_command(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{messages}");
}

/// A tensor's memory, of which kernels get copies with a margin on both sides.
struct Guarded {
    address: *mut u8,
    len: usize,
    /// Where in a copy the tensor begins: a view lies as far from an aligned address as on a GPU, where storages are
    /// aligned.
    start: usize,
}

/// Of 16-byte words, so that it is aligned.
type Words = Vec<u128>;

impl Guarded {
    #[expect(unsafe_code, reason = "a storage's bytes whatever their type")]
    fn values(&self) -> &[u8] {
        unsafe { std::slice::from_raw_parts(self.address, self.len) }
    }

    fn copy(&self) -> Words {
        let mut copy = vec![0; (self.start + self.len + MARGIN).div_ceil(ALIGNMENT)];
        let bytes = bytes_of(&mut copy);
        bytes.fill(UNTOUCHED);
        bytes[self.start..self.start + self.len].copy_from_slice(self.values());
        copy
    }

    #[expect(unsafe_code, reason = "writes to the storage what the kernel wrote")]
    fn give_back(&self, copy: &mut Words, kernel: &str) {
        let (before, rest) = bytes_of(copy).split_at(self.start);
        let (values, behind) = rest.split_at(self.len);
        assert!(
            before.iter().chain(behind).all(|byte| *byte == UNTOUCHED),
            "kernel {kernel} writes outside a tensor"
        );
        // A tensor that is only read may be shared with other threads: it is left alone.
        if self.values() != values {
            unsafe { std::ptr::copy_nonoverlapping(values.as_ptr(), self.address, self.len) }
        }
    }
}

#[expect(unsafe_code, reason = "words seen as bytes")]
fn bytes_of(words: &mut Words) -> &mut [u8] {
    let len = words.len() * ALIGNMENT;
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), len) }
}

thread_local! {
    /// What the kernel that this thread runs may access.
    static TENSORS: RefCell<Vec<Range<usize>>> = const { RefCell::new(Vec::new()) };
    /// Launches of this test so far, from which orders are drawn.
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
    /// How many of each kind.
    static ALIKE: RefCell<HashMap<Sizes, u32>> = RefCell::new(HashMap::new());
}

#[expect(unsafe_code, reason = "called by a library")]
unsafe extern "C" fn allowed(address: usize, bytes: usize, _write: bool) -> bool {
    TENSORS.with_borrow(|tensors| {
        let mut tensors = tensors.iter();
        tensors.any(|tensor| address >= tensor.start && address + bytes <= tensor.end)
    })
}

fn run(launch: &Launch, grid: Grid) -> Result<()> {
    let library = library(launch.module.name);
    let mut library = library.lock().unwrap_or_else(PoisonError::into_inner);
    let library = *library.get_or_insert_with(|| Library {
        checked: compiled(launch.module.name, true),
        plain: compiled(launch.module.name, false),
    });
    let mut memory: Vec<Guarded> = Vec::new();
    // Of every argument, which memory it points at.
    let mut pointers = Vec::new();
    for argument in &launch.arguments {
        pointers.push(match argument {
            Argument::Scalar(_) => None,
            Argument::Tensor(tensor) => Some(place_of(tensor, &mut memory)?),
        });
    }
    let run = |handle: usize, seed: u64| -> Result<Vec<Words>> {
        let mut copies: Vec<Words> = memory.iter().map(Guarded::copy).collect();
        let addresses: Vec<usize> = memory
            .iter()
            .zip(&mut copies)
            .map(|(guarded, copy)| bytes_of(copy).as_ptr() as usize + guarded.start)
            .collect();
        let extents = memory.iter().zip(&addresses);
        TENSORS.set(extents.map(|(guarded, &at)| at..at + guarded.len).collect());
        let arguments: Vec<u64> = launch
            .arguments
            .iter()
            .zip(&pointers)
            .map(|(argument, pointer)| match (argument, pointer) {
                (Argument::Scalar(value), _) => *value,
                (_, place) => place.map_or(0, |place| addresses[place] as u64),
            })
            .collect();
        execute(launch, grid, handle, seed, &arguments)?;
        Ok(copies)
    };
    let seed = LAUNCHES.replace(LAUNCHES.get() + 1) + 1;
    let [x, y, z] = grid.blocks;
    let sizes = (
        launch.kernel.clone(),
        [x, y, z, grid.threads, grid.shared_bytes],
        memory.iter().map(|of| (of.len, of.start)).collect(),
    );
    let alike = ALIKE.with_borrow_mut(|known| {
        let count = known.entry(sizes).or_default();
        *count += 1;
        *count
    });
    let checked = (alike <= CHECKED_ALIKE)
        .then(|| run(library.checked, 0))
        .transpose()?;
    let mut copies = run(library.plain, seed)?;
    assert!(
        checked.is_none_or(|checked| checked == copies),
        "kernel {}: other results when threads and blocks run in another order",
        launch.kernel
    );
    for (guarded, copy) in memory.iter().zip(&mut copies) {
        guarded.give_back(copy, &launch.kernel);
    }
    Ok(())
}

fn execute(
    launch: &Launch,
    grid: Grid,
    library: usize,
    seed: u64,
    arguments: &[u64],
) -> Result<()> {
    let name = CString::new(format!("emulate_{}", launch.kernel)).unwrap();
    let mut message = [0; 512];
    let request = Request {
        grid: grid.blocks,
        threads: grid.threads,
        shared_bytes: grid.shared_bytes,
        count: arguments.len() as u32,
        arguments: arguments.as_ptr(),
        seed,
        allowed: Some(allowed),
        message: message.as_mut_ptr(),
        message_bytes: message.len(),
    };
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
        entry(&raw const request)
    };
    match result {
        RAN => Ok(()),
        WRONG_ARGUMENTS => bail!(
            "kernel {}: {} arguments are not what it takes",
            launch.kernel,
            arguments.len()
        ),
        WRONG_THREADS => bail!("kernel {}: {} threads a block", launch.kernel, grid.threads),
        _ => {
            #[expect(unsafe_code, reason = "the library ends its message with a zero")]
            let message = unsafe { CStr::from_ptr(message.as_ptr()) };
            bail!("{}", message.to_string_lossy())
        }
    }
}

/// The index of a tensor's memory in `memory`.
fn place_of(tensor: &Tensor, memory: &mut Vec<Guarded>) -> Result<usize> {
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cpu(storage) = &*storage else {
        bail!("not on the CPU");
    };
    let offset = layout.start_offset() * tensor.dtype().size_in_bytes();
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
    let address = base.wrapping_add(offset).cast_mut();
    let known = memory
        .iter()
        .position(|other| other.address == address && other.len == len);
    Ok(known.unwrap_or_else(|| {
        let start = MARGIN + offset % ALIGNMENT;
        memory.push(Guarded {
            address,
            len,
            start,
        });
        memory.len() - 1
    }))
}
