//! Launching a kernel on tensors.
//!
//! A kernel takes pointers to contiguous tensors and scalars, in the order in which they are added to its [`Launch`].
//! It runs on the CUDA device of its tensors. On the CPU it runs only inside [`emulated`], where a test executes the
//! same CUDA source compiled for the CPU, so that the Rust side of every kernel is tested without a GPU.

use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Shape;
use candle_core::Tensor;
use candle_core::bail;
use std::cell::RefCell;
use std::rc::Rc;

/// One CUDA source file, compiled by the build script.
#[derive(Debug)]
pub struct Module {
    /// The file's name without its ending.
    pub name: &'static str,
    /// Its PTX; empty without the feature `cuda`.
    pub ptx: &'static str,
}

/// The [`Module`] of `src/model/ops/cuda/source/{name}.cu`.
macro_rules! module {
    ($name:literal) => {
        $crate::model::ops::cuda::launch::Module {
            name: $name,
            #[cfg(feature = "cuda")]
            ptx: include_str!(concat!(env!("OUT_DIR"), "/", $name, ".ptx")),
            #[cfg(not(feature = "cuda"))]
            ptx: "",
        }
    };
}
pub(crate) use module;

/// How many threads run a kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Blocks along x, y and z.
    pub blocks: [u32; 3],
    /// Threads of a block, all along x.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
}

impl Grid {
    /// `blocks` blocks of `threads` threads.
    pub fn new(blocks: usize, threads: u32) -> Self {
        Self {
            blocks: [blocks as u32, 1, 1],
            threads,
            shared_bytes: 0,
        }
    }

    /// At least one thread for each of `count` items.
    pub(crate) fn covering(count: usize, threads: u32) -> Self {
        Self::new(count.div_ceil(threads as usize), threads)
    }

    /// As `self`, with so much dynamic shared memory.
    #[must_use]
    pub fn shared(self, shared_bytes: usize) -> Self {
        Self {
            shared_bytes: shared_bytes as u32,
            ..self
        }
    }
}

/// A kernel's argument.
#[derive(Debug, Clone)]
pub enum Argument<'a> {
    /// The address of a tensor's first element.
    Tensor(&'a Tensor),
    /// A value's bytes from the lowest on: a kernel reads as many as its parameter has.
    Scalar(u64),
}

/// A kernel with its arguments.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The file it stands in.
    pub module: &'static Module,
    /// Its name there.
    pub kernel: String,
    /// In the order of the kernel's parameters.
    pub arguments: Vec<Argument<'a>>,
}

impl<'a> Launch<'a> {
    /// The kernel called `name`.
    pub fn new(module: &'static Module, name: &str) -> Self {
        Self {
            module,
            kernel: name.to_owned(),
            arguments: Vec::new(),
        }
    }

    /// The kernel called `{name}_{dtype}`, where there is one for f32 and one for bf16.
    pub(crate) fn of_dtype(module: &'static Module, name: &str, dtype: DType) -> Result<Self> {
        match dtype {
            DType::F32 | DType::BF16 => {
                Ok(Self::new(module, &format!("{name}_{}", dtype.as_str())))
            }
            _ => bail!("kernel {name}: no variant for {dtype:?}"),
        }
    }

    /// A tensor that is read, written or both.
    #[must_use]
    pub fn tensor(mut self, tensor: &'a Tensor) -> Self {
        self.arguments.push(Argument::Tensor(tensor));
        self
    }

    /// A tensor, or a null pointer.
    #[must_use]
    pub(crate) fn optional(mut self, tensor: Option<&'a Tensor>) -> Self {
        self.arguments
            .push(tensor.map_or(Argument::Scalar(0), Argument::Tensor));
        self
    }

    /// A parameter of type `int` (at most 2³¹ − 1) or `long long`.
    #[must_use]
    pub fn size(mut self, value: usize) -> Self {
        self.arguments.push(Argument::Scalar(value as u64));
        self
    }

    /// A parameter of type `float`.
    #[must_use]
    pub(crate) fn float(mut self, value: f32) -> Self {
        self.arguments
            .push(Argument::Scalar(u64::from(value.to_bits())));
        self
    }

    /// A parameter of type `double`.
    #[must_use]
    pub(crate) fn double(mut self, value: f64) -> Self {
        self.arguments.push(Argument::Scalar(value.to_bits()));
        self
    }

    /// Runs the kernel; on a GPU it is only queued.
    ///
    /// # Errors
    /// A tensor is not contiguous, or they lie on several devices, or on a CPU outside [`emulated`].
    pub fn run(&self, grid: Grid) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let mut tensors = self.arguments.iter().filter_map(|argument| match argument {
            Argument::Tensor(tensor) => Some(*tensor),
            Argument::Scalar(_) => None,
        });
        let Some(first) = tensors.next() else {
            bail!("kernel {}: no tensor", self.kernel);
        };
        for tensor in tensors.chain([first]) {
            if !tensor.is_contiguous() {
                bail!(
                    "kernel {}: {:?} is not contiguous",
                    self.kernel,
                    tensor.layout()
                );
            }
            if !tensor.device().same_device(first.device()) {
                bail!("kernel {}: tensors on two devices", self.kernel);
            }
        }
        match first.device() {
            Device::Cpu => match EMULATOR.with_borrow(Clone::clone) {
                Some(emulator) => emulator(self, grid),
                None => bail!("kernel {} runs on CUDA", self.kernel),
            },
            #[cfg(feature = "cuda")]
            Device::Cuda(device) => self.run_on(device, grid),
            device => bail!(
                "kernel {} does not run on {:?}",
                self.kernel,
                device.location()
            ),
        }
    }

    #[cfg(feature = "cuda")]
    #[expect(
        unsafe_code,
        reason = "a launch trusts the kernel's parameters, which the tests check against the same source on the CPU"
    )]
    fn run_on(&self, device: &candle_core::CudaDevice, grid: Grid) -> Result<()> {
        use candle_core::cuda_backend::WrapErr;
        use candle_core::cuda_backend::cudarc::driver::LaunchConfig;
        use candle_core::cuda_backend::cudarc::driver::PushKernelArg;

        let function =
            device.get_or_load_custom_func(&self.kernel, self.module.name, self.module.ptx)?;
        let values = self
            .arguments
            .iter()
            .map(|argument| match argument {
                Argument::Tensor(tensor) => device_address(tensor, device),
                Argument::Scalar(value) => Ok(*value),
            })
            .collect::<Result<Vec<u64>>>()?;
        let mut builder = function.builder();
        for value in &values {
            builder.arg(value);
        }
        let [x, y, z] = grid.blocks;
        let config = LaunchConfig {
            grid_dim: (x, y, z),
            block_dim: (grid.threads, 1, 1),
            shared_mem_bytes: grid.shared_bytes,
        };
        if grid.shared_bytes > DEFAULT_SHARED_BYTES {
            allow_shared_bytes(&function, grid.shared_bytes)?;
        }
        unsafe { builder.launch(config) }.w()?;
        Ok(())
    }
}

/// What a block may have without asking for more.
#[cfg(feature = "cuda")]
const DEFAULT_SHARED_BYTES: u32 = 48 << 10;

#[cfg(feature = "cuda")]
fn allow_shared_bytes(
    function: &candle_core::cuda_backend::cudarc::driver::CudaFunction,
    bytes: u32,
) -> Result<()> {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::sys::CUfunction_attribute_enum as Attribute;
    function
        .set_attribute(
            Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            bytes as i32,
        )
        .w()
}

/// Where the first element of `tensor` lies in the memory of `device`.
///
/// The stream orders all work of a device (see [`crate::model::ops::cuda`]), so no event is waited for or recorded.
#[cfg(feature = "cuda")]
pub(crate) fn device_address(tensor: &Tensor, device: &candle_core::CudaDevice) -> Result<u64> {
    use candle_core::Storage;
    use candle_core::cuda_backend::CudaStorageSlice as Slice;
    use candle_core::cuda_backend::cudarc::driver::DevicePtr;

    let stream = device.cuda_stream();
    let (storage, layout) = tensor.storage_and_layout();
    let Storage::Cuda(storage) = &*storage else {
        bail!("a tensor that is not on the GPU");
    };
    let start = match &storage.slice {
        Slice::U8(slice) => slice.device_ptr(&stream).0,
        Slice::U32(slice) => slice.device_ptr(&stream).0,
        Slice::I16(slice) => slice.device_ptr(&stream).0,
        Slice::I64(slice) => slice.device_ptr(&stream).0,
        Slice::BF16(slice) => slice.device_ptr(&stream).0,
        Slice::F16(slice) => slice.device_ptr(&stream).0,
        Slice::F32(slice) => slice.device_ptr(&stream).0,
        Slice::F64(slice) => slice.device_ptr(&stream).0,
        _ => bail!("kernels take no tensor of {:?}", tensor.dtype()),
    };
    Ok(start + (layout.start_offset() * tensor.dtype().size_in_bytes()) as u64)
}

/// The widest access of a kernel. Storages begin at multiples of it on every device.
const ALIGNMENT: usize = 16;

/// Whether the first element of `tensor`, which may be a view, lies at a multiple of 16 bytes.
pub(crate) fn is_aligned(tensor: &Tensor) -> bool {
    let first = tensor.layout().start_offset() * tensor.dtype().size_in_bytes();
    first.is_multiple_of(ALIGNMENT)
}

/// `tensor`, or a copy where it is a view that does not begin at a multiple of 16 bytes: for kernels that read 16 bytes
/// at a time whatever the address, which a GPU refuses elsewhere.
pub(crate) fn aligned(tensor: &Tensor) -> Result<Tensor> {
    if is_aligned(tensor) {
        Ok(tensor.clone())
    } else {
        tensor.force_contiguous()
    }
}

/// A tensor whose values the next kernel writes; on the CPU they are NaN (or 0 where there is none), so that a kernel
/// that leaves some out is seen.
pub(crate) fn unwritten(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    let shape = shape.into();
    if device.is_cpu() {
        return if dtype.is_int() {
            Tensor::zeros(shape, dtype, device)
        } else {
            Tensor::full(f32::NAN, shape, device)?.to_dtype(dtype)
        };
    }
    #[expect(
        unsafe_code,
        reason = "uninitialised, but every caller launches a kernel that writes all of it"
    )]
    unsafe {
        Tensor::empty(shape, dtype, device)
    }
}

/// Executes a launch whose tensors are on the CPU.
pub type Emulator = Rc<dyn Fn(&Launch, Grid) -> Result<()>>;

thread_local! {
    static EMULATOR: RefCell<Option<Emulator>> = const { RefCell::new(None) };
}

/// Runs `body`, in which this thread's kernels run on the CPU through `emulator` and a network that is built there uses them.
pub fn emulated<T>(emulator: &Emulator, body: impl FnOnce() -> T) -> T {
    struct Restore(Option<Emulator>);
    impl Drop for Restore {
        fn drop(&mut self) {
            EMULATOR.set(self.0.take());
        }
    }
    let _restore = Restore(EMULATOR.replace(Some(Rc::clone(emulator))));
    body()
}

/// Whether kernels take `x`: on a GPU always, on the CPU inside [`emulated`]; in f32 and bf16.
pub fn applies(x: &Tensor) -> bool {
    matches!(x.dtype(), DType::F32 | DType::BF16)
        && (x.device().is_cuda() || EMULATOR.with_borrow(Option::is_some))
}
