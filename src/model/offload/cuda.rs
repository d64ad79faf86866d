//! Page-locked memory and the streams that copy from and to it.
#![expect(
    unsafe_code,
    reason = "asynchronous copies between addresses; events keep either side from being used too early"
)]

use crate::model::cuda_error::PAGE_LOCKED;
use crate::model::ops::cuda::launch::device_address;
use candle_core::cuda_backend::WrapErr;
use candle_core::cuda_backend::cudarc::driver::{
    CudaEvent, CudaStream, DriverError, PinnedHostSlice, result,
};
use candle_core::{CpuStorage, CudaDevice, DType, Device, Result, Storage, Tensor, bail};
use half::bf16;
use std::sync::Arc;

/// Bytes of a staging area; its halves take turns.
const STAGING: usize = 64 << 20;
const HALF: usize = STAGING / 2;

/// Page-locked memory that only the device reads.
#[derive(Debug)]
pub(super) struct Pinned(PinnedHostSlice<u8>);

impl Pinned {
    /// A copy of a flat CPU tensor.
    pub(super) fn holding(flat: &Tensor, device: &CudaDevice) -> Result<Self> {
        let (storage, _) = flat.storage_and_layout();
        let bytes = stored(&storage)?;
        let context = device.cuda_stream().context().clone();
        // SAFETY: filled below.
        let pinned = unsafe { context.alloc_pinned::<u8>(bytes.len()) };
        let mut pinned = page_locked(bytes.len(), pinned)?;
        pinned.as_mut_slice().w()?.copy_from_slice(bytes);
        Ok(Self(pinned))
    }
}

/// Says how much was asked for where there is none.
fn page_locked<T>(bytes: usize, memory: std::result::Result<T, DriverError>) -> Result<T> {
    memory.map_err(|error| {
        let size = bytes as f64 / 1e6;
        candle_core::Error::msg(format!("{size:.0} MB of {PAGE_LOCKED}: {error}"))
    })
}

/// The bytes of a whole CPU storage.
fn stored(storage: &Storage) -> Result<&[u8]> {
    match storage {
        Storage::Cpu(CpuStorage::BF16(values)) => Ok(bytes_of(values)),
        Storage::Cpu(CpuStorage::F32(values)) => Ok(bytes_of(values)),
        _ => bail!("only bf16 and f32 go between host and device"),
    }
}

fn bytes_of<T>(values: &[T]) -> &[u8] {
    // SAFETY: numbers without padding, seen as bytes.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

/// Copies to the device on a stream of their own.
pub(super) struct Copies {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    copied: Option<CudaEvent>,
}

impl Copies {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            stream: device.cuda_stream().context().new_stream().w()?,
            device: device.clone(),
            copied: None,
        })
    }

    pub(super) fn start(&mut self, pinned: &Pinned, slot: &Tensor) -> Result<()> {
        self.stream.join(&self.device.cuda_stream()).w()?;
        let target = device_address(slot, &self.device)?;
        let source = pinned.0.as_slice().w()?;
        // SAFETY: `slot` is at least as long, nothing queued uses it any more, and its users wait for the event.
        unsafe { result::memcpy_htod_async(target, source, self.stream.cu_stream()) }.w()?;
        self.copied = Some(self.stream.record_event(None).w()?);
        Ok(())
    }

    pub(super) fn wait(&self) -> Result<()> {
        match &self.copied {
            Some(copied) => self.device.cuda_stream().wait(copied).w(),
            None => Ok(()),
        }
    }
}

impl Drop for Copies {
    /// The slots may be freed only when no copy is on its way.
    fn drop(&mut self) {
        if let Err(error) = self.stream.synchronize() {
            tracing::warn!("copies to the device: {error}");
        }
    }
}

/// An event behind the work queued on `device` so far.
pub(super) fn ready(device: &Device) -> Result<Option<CudaEvent>> {
    match device {
        Device::Cuda(device) => Ok(Some(device.cuda_stream().record_event(None).w()?)),
        _ => Ok(None),
    }
}

/// Copies from the device through a staging area: while one half of it is emptied, the other is filled.
#[derive(Debug)]
pub(super) struct Download {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    staging: PinnedHostSlice<u8>,
}

impl Download {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let context = device.cuda_stream().context().clone();
        Ok(Self {
            stream: context.new_stream().w()?,
            // SAFETY: every part is written by a copy before it is read. Memory for reading is not write-combined.
            staging: page_locked(STAGING, unsafe {
                context.alloc_pinned_with_flags::<u8>(STAGING, 0)
            })?,
            device: device.clone(),
        })
    }

    pub(super) fn fetch(&mut self, tensor: &Tensor, ready: Option<&CudaEvent>) -> Result<Tensor> {
        if let Some(ready) = ready {
            self.stream.wait(ready).w()?;
        }
        let source = device_address(tensor, &self.device)?;
        let bytes = tensor.elem_count() * tensor.dtype().size_in_bytes();
        match tensor.dtype() {
            DType::BF16 => {
                let mut values = vec![bf16::ZERO; tensor.elem_count()];
                self.copy(source, bytes, values.as_mut_ptr().cast())?;
                Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
            }
            DType::F32 => {
                let mut values = vec![0f32; tensor.elem_count()];
                self.copy(source, bytes, values.as_mut_ptr().cast())?;
                Tensor::from_vec(values, tensor.shape(), &Device::Cpu)
            }
            other => bail!("no download of {other:?}"),
        }
    }

    fn copy(&mut self, source: u64, bytes: usize, target: *mut u8) -> Result<()> {
        let stream = self.stream.cu_stream();
        let mut halves = self.staging.as_mut_slice().w()?.chunks_exact_mut(HALF);
        let (Some(mut filling), Some(mut emptying)) = (halves.next(), halves.next()) else {
            bail!("the staging area has no halves");
        };
        let mut on_its_way: Option<(CudaEvent, usize, usize)> = None;
        for start in (0..=bytes.div_ceil(HALF)).map(|chunk| chunk * HALF) {
            let len = HALF.min(bytes.saturating_sub(start));
            let next = if len > 0 {
                let address = source + start as u64;
                // SAFETY: the source is alive until `fetch` returns, and `filling` until its event is waited for.
                unsafe { result::memcpy_dtoh_async(&mut filling[..len], address, stream) }.w()?;
                Some((self.stream.record_event(None).w()?, start, len))
            } else {
                None
            };
            if let Some((copied, start, len)) = on_its_way {
                copied.synchronize().w()?;
                // SAFETY: `target` has `bytes` bytes, and `start + len` is at most that.
                unsafe {
                    std::ptr::copy_nonoverlapping(emptying.as_ptr(), target.add(start), len);
                }
            }
            on_its_way = next;
            std::mem::swap(&mut filling, &mut emptying);
        }
        Ok(())
    }
}

/// Copies to the device through a staging area: while one half of it is on its way, the other is filled.
#[derive(Debug)]
pub(super) struct Upload {
    device: CudaDevice,
    stream: Arc<CudaStream>,
    staging: PinnedHostSlice<u8>,
    /// When each half may be filled again.
    free: [Option<CudaEvent>; 2],
    /// The half that is filled next.
    turn: usize,
}

impl Upload {
    pub(super) fn new(device: &CudaDevice) -> Result<Self> {
        let context = device.cuda_stream().context().clone();
        Ok(Self {
            stream: context.new_stream().w()?,
            // SAFETY: every part is filled before it is copied.
            staging: page_locked(STAGING, unsafe { context.alloc_pinned::<u8>(STAGING) })?,
            device: device.clone(),
            free: [None, None],
            turn: 0,
        })
    }

    pub(super) fn put(&mut self, tensor: &Tensor, target: &Tensor) -> Result<()> {
        let computing = self.device.cuda_stream();
        self.stream.join(&computing).w()?;
        let mut address = device_address(target, &self.device)?;
        let (storage, _) = tensor.storage_and_layout();
        let bytes = stored(&storage)?;
        if bytes.len() != target.elem_count() * target.dtype().size_in_bytes() {
            bail!("new values that are a part of another tensor");
        }
        for part in bytes.chunks(HALF) {
            if let Some(free) = self.free[self.turn].take() {
                free.synchronize().w()?;
            }
            let half = &mut self.staging.as_mut_slice().w()?[self.turn * HALF..][..part.len()];
            half.copy_from_slice(part);
            // SAFETY: `target` has as many bytes as `tensor`; this half is not written before its event has come.
            unsafe { result::memcpy_htod_async(address, half, self.stream.cu_stream()) }.w()?;
            self.free[self.turn] = Some(self.stream.record_event(None).w()?);
            self.turn = 1 - self.turn;
            address += part.len() as u64;
        }
        computing.join(&self.stream).w()
    }
}

impl Drop for Upload {
    /// The staging area may be freed only when no copy is on its way.
    fn drop(&mut self) {
        if let Err(error) = self.stream.synchronize() {
            tracing::warn!("copies to the device: {error}");
        }
    }
}
