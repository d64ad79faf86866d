//! Where a backward pass leaves its gradients: on the device, or in host memory, where they go while it goes on.
//!
//! The global norm needs every gradient before the first weight moves, so with [`GradientPlacement::Host`] they wait for it in host
//! memory, in the weights' format; at most 12 of them are on the device.

use crate::model::offload::{Download, PendingDownload};
use crate::train::optimizer::Gradients;
use candle_core::{Result, Tensor, bail};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Gradients that wait for their copy before the backward pass waits for them: a layer's.
const IN_FLIGHT: usize = 12;

/// Where gradients are kept until the update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GradientPlacement {
    /// Where they were computed.
    #[default]
    Device,
    /// In host memory.
    Host,
}

/// Gradients as they come.
#[derive(Debug)]
pub(crate) enum GradientCollector {
    /// On the device.
    Here(Gradients),
    /// On their way to the host.
    Away(GradientCopier),
}

/// A thread that copies.
#[derive(Debug)]
pub(crate) struct GradientCopier {
    sender: SyncSender<(String, PendingDownload)>,
    thread: JoinHandle<Result<Gradients>>,
}

impl GradientCollector {
    pub(crate) fn new(placement: GradientPlacement) -> Self {
        match placement {
            GradientPlacement::Device => Self::Here(Gradients::new()),
            GradientPlacement::Host => {
                let (sender, receiver) = sync_channel::<(String, PendingDownload)>(IN_FLIGHT);
                let thread = std::thread::spawn(move || {
                    let (mut download, mut gradients) = (Download::default(), Gradients::new());
                    for (name, gradient) in receiver {
                        insert(&mut gradients, name, download.fetch(gradient)?)?;
                    }
                    Ok(gradients)
                });
                Self::Away(GradientCopier { sender, thread })
            }
        }
    }

    /// Takes `gradient`; the second one of a name is added to the first.
    pub(crate) fn add(&mut self, name: &str, gradient: Tensor) -> Result<()> {
        match self {
            Self::Here(gradients) => insert(gradients, name.to_owned(), gradient),
            Self::Away(copier) => {
                let gradient = PendingDownload::new(&gradient)?;
                match copier.sender.send((name.to_owned(), gradient)) {
                    Ok(()) => Ok(()),
                    // The thread has stopped; it knows why.
                    Err(_) => {
                        match std::mem::replace(self, Self::Here(Gradients::new())).finish() {
                            Err(error) => Err(error),
                            Ok(_) => bail!("gradients cannot be copied to host memory"),
                        }
                    }
                }
            }
        }
    }

    /// Gives back the gradient of `name`, to be added to in place, if it is still here.
    pub(crate) fn take(&mut self, name: &str) -> Option<Tensor> {
        match self {
            Self::Here(gradients) => gradients.remove(name),
            Self::Away(_) => None,
        }
    }

    /// All of them, once they are where they belong.
    pub(crate) fn finish(self) -> Result<Gradients> {
        match self {
            Self::Here(gradients) => Ok(gradients),
            Self::Away(GradientCopier { sender, thread }) => {
                drop(sender);
                match thread.join() {
                    Ok(gradients) => gradients,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        }
    }
}

fn insert(gradients: &mut Gradients, name: String, gradient: Tensor) -> Result<()> {
    let sum = match gradients.remove(&name) {
        Some(first) => (first + gradient)?,
        None => gradient,
    };
    gradients.insert(name, sum);
    Ok(())
}
