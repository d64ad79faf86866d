//! Running the same work on the device again and again: as it is, or captured once as a CUDA graph.

use candle_core::{Device, Result};

/// One piece of work that touches the same memory every time. Holds its graph once it is captured.
#[derive(Debug)]
pub(super) struct Replay {
    wanted: bool,
    #[cfg(feature = "cuda")]
    stage: cuda::Stage,
}

impl Replay {
    /// `wanted`: to be captured on a GPU. If that fails, the work runs as it is.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            #[cfg(feature = "cuda")]
            stage: cuda::Stage::Cold,
        }
    }

    /// Runs `work` on `device` once.
    pub(super) fn run(&mut self, device: &Device, work: impl Fn() -> Result<()>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (true, Device::Cuda(device)) = (self.wanted, device) {
            return self.stage.run(device, work);
        }
        // Only a GPU has graphs.
        let _ = (self.wanted, device);
        work()
    }
}

#[cfg(feature = "cuda")]
mod cuda {
    use candle_core::cuda_backend::WrapErr;
    use candle_core::cuda_backend::cudarc::driver::CudaGraph;
    use candle_core::cuda_backend::cudarc::driver::sys::CUgraphInstantiate_flags as Flags;
    use candle_core::cuda_backend::cudarc::driver::sys::CUstreamCaptureMode as Mode;
    use candle_core::{CudaDevice, Result, bail};

    /// How far the work is.
    pub(super) enum Stage {
        /// It has not run: modules are not loaded, libraries have no workspace yet.
        Cold,
        /// It has run once.
        Warm,
        Captured(CudaGraph),
        /// Capturing or launching failed.
        Plain,
    }

    impl std::fmt::Debug for Stage {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(match self {
                Self::Cold => "Cold",
                Self::Warm => "Warm",
                Self::Captured(_) => "Captured",
                Self::Plain => "Plain",
            })
        }
    }

    impl Stage {
        pub(super) fn run(
            &mut self,
            device: &CudaDevice,
            work: impl Fn() -> Result<()>,
        ) -> Result<()> {
            if matches!(self, Self::Warm) {
                *self = match capture(device, &work) {
                    Ok(graph) => Self::Captured(graph),
                    Err(error) => Self::plain(device, &error),
                };
            }
            if let Self::Captured(graph) = self {
                match graph.launch() {
                    Ok(()) => return Ok(()),
                    // Nothing of it is queued: the step is still to be done.
                    Err(error) => *self = Self::plain(device, &error),
                }
            }
            if matches!(self, Self::Plain) {
                return work();
            }
            let _parameters = device.enable_cuda_graph_htod_cache();
            work()?;
            *self = Self::Warm;
            Ok(())
        }

        fn plain(device: &CudaDevice, why: &dyn std::fmt::Display) -> Self {
            tracing::warn!("no CUDA graph ({why}): decoding goes on without");
            // What a failed capture allocated cannot be freed either; the context would give that error to the next call.
            if let Err(error) = device.cuda_stream().context().check_err() {
                tracing::debug!("left by the failed CUDA graph: {error}");
            }
            Self::Plain
        }
    }

    /// The graph of `work`, which is not run. What it allocates it must also have freed: addresses in the graph are those
    /// of tensors that were there before.
    fn capture(device: &CudaDevice, work: impl Fn() -> Result<()>) -> Result<CudaGraph> {
        let stream = device.cuda_stream();
        // What is queued ahead may still be freeing memory that the graph would then allocate.
        stream.synchronize().w()?;
        let _parameters = device.enable_cuda_graph_htod_cache();
        stream
            .begin_capture(Mode::CU_STREAM_CAPTURE_MODE_RELAXED)
            .w()?;
        let queued = work();
        // In any case, or the stream stays in capture.
        let graph = stream
            .end_capture(Flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH)
            .w();
        queued?;
        let Some(graph) = graph? else {
            bail!("the captured graph is empty");
        };
        graph.upload().w()?;
        Ok(graph)
    }
}
