//! Several processes, ranks, that train one model: each takes its part of every step's questions, and before each
//! update the gradients of all are added up, so that all hold the same weights all the time.
//!
//! Rank 0 alone keeps the run's files. The others reach it over TCP; what ranks tell each other in a step is small and
//! goes that way, and so do gradients on a CPU. Gradients on GPUs are added up by NCCL. A rank that fails says so, one
//! that vanishes is noticed: the others end with its number and its reason instead of waiting for ever.

use crate::model::device;
use candle_core::Device;
use candle_core::Tensor;
use link::Link;
use rendezvous::Rendezvous;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

mod all_reduce;
mod launch;
mod link;
#[cfg(feature = "nccl")]
mod nccl;
pub(crate) mod rendezvous;

/// What goes wrong between ranks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DistError {
    /// The environment names ranks, but not completely.
    #[error("{variable}{problem}; torchrun and srun set it, see docs/clusters.md")]
    Environment {
        variable: String,
        /// What is wrong with it.
        problem: String,
    },
    /// Rank 0 cannot be reached, or cannot listen.
    #[error("rank {rank}: {address}: {source}")]
    Address {
        rank: usize,
        /// HOST:PORT of rank 0.
        address: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// Not all came.
    #[error(
        "after {seconds} s (train.rank_timeout) ranks {missing:?} have not come to {address}: they do not run, cannot reach that \
         address (MASTER_ADDR, MASTER_PORT, a firewall), or have failed, as their own output says"
    )]
    Missing {
        /// Who did not come.
        missing: Vec<usize>,
        /// HOST:PORT of rank 0.
        address: String,
        /// How long it waited.
        seconds: u64,
    },
    /// Ranks that are not parts of one run.
    #[error("rank {rank} does not belong to this run: {reason}")]
    Stranger { rank: usize, reason: String },
    /// Another rank ended before the run did.
    #[error("rank {rank} failed: {reason}")]
    Left {
        rank: usize,
        /// What it said, or that it said nothing.
        reason: String,
    },
    /// The processes of this machine cannot be started.
    #[error("cannot start rank {rank}: {source}")]
    Launch {
        rank: usize,
        /// What the system says.
        source: std::io::Error,
    },
    /// The ranks reach each other, and NCCL their GPUs not.
    #[error(
        "rank {rank}: after {seconds} s (train.rank_timeout) NCCL has not connected the GPUs of all {ranks} ranks, although each \
         reaches rank 0 at {address}: NCCL_SOCKET_IFNAME must name the network between the machines on each of them, and a \
         firewall must let all ports through between them; NCCL_DEBUG=INFO shows what it tries"
    )]
    #[cfg_attr(not(feature = "nccl"), expect(dead_code, reason = "NCCL's"))]
    NotConnected {
        rank: usize,
        /// How many there are.
        ranks: usize,
        /// HOST:PORT of rank 0.
        address: String,
        /// How long it waited.
        seconds: u64,
    },
    /// GPUs, and a program that cannot connect them.
    #[error(
        "several ranks on GPUs need NCCL: build with --features cuda,nccl, or set model.device = \"cpu\""
    )]
    NoNccl,
    /// What a rank said is not understood.
    #[error("a message between ranks: {0}")]
    Message(#[from] postcard::Error),
    /// A tensor or a device that refuses.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// A specialised result.
pub(crate) type Result<T, E = DistError> = std::result::Result<T, E>;

/// All ranks, seen from one.
#[derive(Debug)]
pub struct ProcessGroup {
    rendezvous: Rendezvous,
    /// How long ranks wait for each other at the start: nodes of a cluster do not begin together.
    #[cfg_attr(not(feature = "nccl"), expect(dead_code, reason = "NCCL's limit"))]
    patience: Duration,
    link: Option<Link>,
    #[cfg(feature = "nccl")]
    nccl: Option<nccl::Nccl>,
    /// Ends after the link, whose end tells them to.
    _children: launch::Children,
}

/// Whether a thread of this process is inside a library that does not come back.
static LEFT_BEHIND: AtomicBool = AtomicBool::new(false);

/// Whether a thread of this process waits inside a library without end, as where GPUs could not be connected: what libraries do
/// at the end of a process must not be done beside it.
pub(crate) fn is_work_left_behind() -> bool {
    LEFT_BEHIND.load(Ordering::Relaxed)
}

impl ProcessGroup {
    /// One process.
    pub fn alone() -> Self {
        let children = launch::Children::default();
        Self::new(Rendezvous::alone(), Duration::ZERO, None, children)
    }

    fn new(
        rendezvous: Rendezvous,
        patience: Duration,
        link: Option<Link>,
        children: launch::Children,
    ) -> Self {
        Self {
            rendezvous,
            patience,
            link,
            #[cfg(feature = "nccl")]
            nccl: None,
            _children: children,
        }
    }

    /// The process at `rendezvous`. Returns when all ranks are there; `patience` is how long they wait for each other, now and
    /// in [`Self::connect`].
    ///
    /// # Errors
    /// Ranks that do not come in time, or do not belong together.
    pub(crate) fn join(rendezvous: Rendezvous, patience: Duration) -> Result<Self> {
        let link = Link::open(&rendezvous, patience)?;
        let children = launch::Children::default();
        Ok(Self::new(rendezvous, patience, Some(link), children))
    }

    /// This process as rank 0, and `size - 1` more of it with the same arguments on this machine.
    ///
    /// # Errors
    /// When the system gives no port or no process, or one ends before the run begins.
    pub(crate) fn launch(size: usize, patience: Duration) -> Result<Self> {
        if size == 1 {
            return Ok(Self::alone());
        }
        let (rendezvous, link, children) = launch::launch(size, patience)?;
        Ok(Self::new(rendezvous, patience, Some(link), children))
    }

    /// This process's number.
    pub(crate) fn rank(&self) -> usize {
        self.rendezvous.rank
    }

    /// How many ranks there are.
    pub(crate) fn size(&self) -> usize {
        self.rendezvous.size
    }

    /// Which of `visible` GPUs this process takes: that of its number on its machine, or the only one where the
    /// cluster shows every process its own.
    pub(crate) fn gpu(&self, visible: usize) -> Option<usize> {
        let local_rank = self.rendezvous.local_rank;
        if local_rank < visible {
            Some(local_rank)
        } else {
            (visible == 1 && !self.rendezvous.launched).then_some(0)
        }
    }

    /// Whether this rank keeps the files.
    pub(crate) fn is_first(&self) -> bool {
        self.rendezvous.rank == 0
    }

    /// Which of `count` questions in a row are this rank's: parts that differ by one at most.
    pub(crate) fn portion(&self, count: usize) -> Range<usize> {
        portion(count, self.rank(), self.size())
    }

    /// Every rank's value, in the order of ranks. All ranks must ask in the same order.
    ///
    /// # Errors
    /// [`DistError::Left`].
    pub(crate) fn all_gather<T: Serialize + DeserializeOwned>(&self, value: T) -> Result<Vec<T>> {
        match &self.link {
            None => Ok(vec![value]),
            Some(link) => link.all_gather(&value),
        }
    }

    /// Rank 0's value; the others have none.
    ///
    /// # Errors
    /// [`DistError::Left`].
    pub(crate) fn broadcast<T: Serialize + DeserializeOwned>(&self, value: Option<T>) -> Result<T> {
        self.all_gather(value)?
            .swap_remove(0)
            .ok_or_else(|| DistError::Stranger {
                rank: 0,
                reason: "it has sent nothing".to_owned(),
            })
    }

    /// Whether any rank says so.
    ///
    /// # Errors
    /// [`DistError::Left`].
    pub(crate) fn any(&self, flag: bool) -> Result<bool> {
        Ok(self.all_gather(flag)?.contains(&true))
    }

    /// The sum over the ranks, position by position.
    ///
    /// # Errors
    /// [`DistError::Left`].
    pub(crate) fn all_reduce_sum<const N: usize>(&self, values: [f64; N]) -> Result<[f64; N]> {
        let mut sums = [0.0; N];
        for values in self.all_gather(values.to_vec())? {
            for (sum, value) in sums.iter_mut().zip(values) {
                *sum += value;
            }
        }
        Ok(sums)
    }

    /// Prepares for gradients that are on `device`.
    ///
    /// # Errors
    /// Ranks on CPUs and GPUs in one run; GPUs without NCCL in the program, or that NCCL cannot connect in time.
    pub(crate) fn connect(&mut self, device: &Device) -> Result<()> {
        if self.link.is_none() {
            return Ok(());
        }
        let kinds = self.all_gather(device.is_cpu())?;
        if let Some(rank) = kinds.iter().position(|kind| *kind != kinds[0]) {
            return Err(DistError::Stranger {
                rank,
                reason: "some ranks run on a CPU and some on a GPU; set model.device".to_owned(),
            });
        }
        if device.is_cpu() {
            return Ok(());
        }
        #[cfg(feature = "nccl")]
        {
            self.nccl = Some(nccl::Nccl::connect(self, device)?);
            Ok(())
        }
        #[cfg(not(feature = "nccl"))]
        Err(DistError::NoNccl)
    }

    /// Adds every rank's gradients of the same names up; all get the same sums, bit by bit.
    ///
    /// # Errors
    /// [`DistError::Left`]; a tensor that other ranks have in another shape.
    pub(crate) fn all_reduce(&self, gradients: &mut BTreeMap<String, Tensor>) -> Result<()> {
        let Some(link) = &self.link else {
            return Ok(());
        };
        // Nobody begins before all are here: within NCCL a missing rank would be waited for in vain.
        let shape = all_reduce::shape_of(gradients);
        let shapes = self.all_gather(shape)?;
        if let Some(rank) = shapes.iter().position(|other| *other != shape) {
            return Err(DistError::Stranger {
                rank,
                reason: format!("its gradients differ from those of rank {}", self.rank()),
            });
        }
        #[cfg(feature = "nccl")]
        if let Some(nccl) = &self.nccl {
            return nccl.all_reduce(link, gradients);
        }
        all_reduce::all_reduce(link, gradients)
    }

    /// Tells the others why this rank ends early.
    pub(crate) fn fail(&self, error: &anyhow::Error) {
        let Some(link) = &self.link else {
            return;
        };
        match error.downcast_ref() {
            Some(DistError::Left { rank, reason }) => link.fail(*rank, reason),
            _ => link.fail(self.rank(), &device::in_words(&format!("{error:#}"))),
        }
    }
}

fn portion(count: usize, rank: usize, size: usize) -> Range<usize> {
    count * rank / size..count * (rank + 1) / size
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_cover_everything_once() {
        for (count, size) in [(8, 2), (7, 3), (2, 2), (1, 4), (0, 2)] {
            let portions: Vec<_> = (0..size).map(|rank| portion(count, rank, size)).collect();
            let all: Vec<usize> = portions.iter().cloned().flatten().collect();
            assert_eq!(all, (0..count).collect::<Vec<_>>());
            let lengths = portions.iter().map(ExactSizeIterator::len);
            assert!(lengths.clone().max().unwrap() - lengths.min().unwrap() <= 1);
        }
    }

    #[test]
    fn each_rank_takes_its_gpu() {
        let at = |local_rank, launched| {
            let rendezvous = Rendezvous {
                local_rank,
                launched,
                ..Rendezvous::alone()
            };
            let children = launch::Children::default();
            ProcessGroup::new(rendezvous, Duration::ZERO, None, children)
        };
        assert_eq!(at(1, true).gpu(2), Some(1));
        assert_eq!(at(1, true).gpu(1), None);
        assert_eq!(at(1, false).gpu(1), Some(0));
        assert_eq!(at(3, false).gpu(2), None);
    }

    #[test]
    fn alone_everything_is_ones_own() {
        let dist = ProcessGroup::alone();
        assert_eq!(dist.all_gather(3).unwrap(), [3]);
        assert_eq!(dist.portion(5), 0..5);
        assert!(!dist.any(false).unwrap());
        assert_eq!(dist.broadcast(Some(4)).unwrap(), 4);
        assert!(dist.broadcast::<u8>(None).is_err());
    }
}
