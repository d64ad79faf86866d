//! Running the same work on the device again and again: as it is, or captured once as a CUDA graph.

use candle_core::{Device, Result};
use serde::{Deserialize, Serialize};
#[cfg(feature = "cuda")]
use std::sync::Once;

/// How the steps of a decoding ran. Ranks tell it each other, so every field is always written.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct GraphUse {
    /// Steps that were replayed from a CUDA graph.
    #[serde(rename = "graph_steps")]
    pub(crate) captured: u64,
    /// Steps that were launched kernel by kernel: without a graph all, with one the first, which loads the kernels.
    #[serde(rename = "plain_steps")]
    pub(crate) plain: u64,
    /// Why there was no graph where one was asked for; absent where there was one, or none was asked for.
    #[serde(rename = "no_graph")]
    pub(crate) refused: Option<String>,
}

impl GraphUse {
    /// Adds what another decoding did; the first reason stays.
    pub(crate) fn add(&mut self, other: &Self) {
        self.captured += other.captured;
        self.plain += other.plain;
        if self.refused.is_none() {
            self.refused.clone_from(&other.refused);
        }
    }

    /// Why steps did not run from a graph that was asked for; `None` where they did.
    pub(crate) fn without_graph(&self) -> Option<&str> {
        let few = "too few steps followed each other for one to be captured";
        let none = (self.captured == 0).then_some(few);
        self.refused.as_deref().or(none)
    }
}

/// One piece of work that touches the same memory every time. Holds its graph once it is captured.
#[derive(Debug)]
pub(super) struct Replay {
    wanted: bool,
    used: GraphUse,
    #[cfg(feature = "cuda")]
    stage: cuda::Stage,
}

impl Replay {
    /// `wanted`: to be captured on a GPU. If that fails, the work runs as it is.
    pub(super) fn new(wanted: bool) -> Self {
        Self {
            wanted,
            used: GraphUse::default(),
            #[cfg(feature = "cuda")]
            stage: cuda::Stage::Cold,
        }
    }

    /// Runs `work` on `device` once.
    pub(super) fn run(&mut self, device: &Device, work: impl Fn() -> Result<()>) -> Result<()> {
        #[cfg(feature = "cuda")]
        if let (true, Device::Cuda(device)) = (self.wanted, device) {
            return self.stage.run(device, work, &mut self.used);
        }
        self.used.plain += 1;
        if self.wanted && self.used.refused.is_none() {
            self.used.refused = Some(only_a_gpu(device));
        }
        work()
    }

    /// How the work ran so far.
    pub(super) fn used(&self) -> &GraphUse {
        &self.used
    }
}

/// Why another device has no graph.
pub(super) fn only_a_gpu(device: &Device) -> String {
    let name = if device.is_cpu() {
        "a CPU"
    } else {
        "this device"
    };
    format!("{name} has no CUDA graphs")
}

#[cfg(feature = "cuda")]
mod cuda {
    use super::{GraphUse, Once};
    use crate::model::cuda_error::plain_words;
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
            used: &mut GraphUse,
        ) -> Result<()> {
            if matches!(self, Self::Warm) {
                *self = match capture(device, &work) {
                    Ok(graph) => Self::Captured(graph),
                    Err(error) => Self::plain(device, &format!("capturing it: {error}"), used),
                };
            }
            if let Self::Captured(graph) = self {
                match graph.launch() {
                    Ok(()) => {
                        used.captured += 1;
                        return Ok(());
                    }
                    // Nothing of it is queued: the step is still to be done.
                    Err(error) => {
                        *self = Self::plain(device, &format!("launching it: {error}"), used);
                    }
                }
            }
            used.plain += 1;
            if matches!(self, Self::Plain) {
                return work();
            }
            let _parameters = device.enable_cuda_graph_htod_cache();
            work()?;
            *self = Self::Warm;
            Ok(())
        }

        fn plain(device: &CudaDevice, why: &str, used: &mut GraphUse) -> Self {
            // Every generation of a run would say it again.
            static SAID: Once = Once::new();
            let why = plain_words(why);
            SAID.call_once(|| {
                tracing::error!(
                    "sampling.cuda_graph: there is no CUDA graph ({why}): decoding goes on without one, slower; the steps are \
                     counted, and this is not said again"
                );
            });
            // What a failed capture allocated cannot be freed either; the context would give that error to the next call.
            if let Err(error) = device.cuda_stream().context().check_err() {
                tracing::debug!("left by the failed CUDA graph: {error}");
            }
            used.refused = Some(why);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_says_why_it_has_no_graph_where_one_is_asked_for() -> Result<()> {
        let ran = std::cell::Cell::new(0);
        let work = || {
            ran.set(ran.get() + 1);
            Ok(())
        };
        for wanted in [false, true] {
            let mut replay = Replay::new(wanted);
            for _ in 0..3 {
                replay.run(&Device::Cpu, work)?;
            }
            let used = replay.used();
            assert_eq!((used.captured, used.plain), (0, 3));
            let why = wanted.then_some("a CPU has no CUDA graphs");
            assert_eq!(used.refused.as_deref(), why);
        }
        assert_eq!(ran.get(), 6);
        Ok(())
    }

    #[test]
    fn decodings_are_counted_together_with_the_first_reason() {
        let of = |captured, plain, refused: Option<&str>| GraphUse {
            captured,
            plain,
            refused: refused.map(str::to_owned),
        };
        let mut sum = of(0, 1, None);
        assert!(sum.without_graph().unwrap().contains("too few"));
        sum.add(&of(0, 8, Some("no memory")));
        assert_eq!(sum.without_graph(), Some("no memory"));
        sum.add(&of(7, 1, Some("later")));
        assert_eq!(sum, of(7, 10, Some("no memory")));
        // One that is refused is not made good by another.
        assert_eq!(sum.without_graph(), Some("no memory"));
        assert_eq!(of(7, 1, None).without_graph(), None);
    }
}
