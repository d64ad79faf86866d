//! Gradients of all ranks added up: by rank 0, for CPUs, and what NCCL is given of them.
//!
//! Either way a sum is made in f32 and rounded to the gradients' format once: NCCL would round one of bf16 at every rank
//! it goes through.

use super::DistError;
use super::Result;
use super::link::Link;
use candle_core::DType;
use candle_core::Device;
use candle_core::Tensor;
use half::bf16;
use std::collections::BTreeMap;

/// Names, shapes and formats in one number: gradients with the same number can be added up.
pub(super) fn shape_of(gradients: &BTreeMap<String, Tensor>) -> u64 {
    let mut hash = crate::util::hash::Fnv::default();
    for (name, gradient) in gradients {
        let shape = format!("{name} {:?} {:?};", gradient.dims(), gradient.dtype());
        hash.add(shape.as_bytes());
    }
    hash.value()
}

/// Values of gradients that are added up at once where that is not done in place: their f32 copies, and what becomes of
/// them, take 8 bytes a value, which is less than the activations that a backward pass has freed by then.
#[cfg(feature = "nccl")]
pub(super) const BUCKET: usize = 16 << 20;

/// Gives `add` the gradients part by part as flat f32 tensors on `device`, `most` values at once, and puts the sums that it
/// leaves in them where they belong.
#[cfg(any(feature = "nccl", test))]
pub(super) fn in_buckets<'a>(
    gradients: impl IntoIterator<Item = &'a mut Tensor>,
    device: &Device,
    most: usize,
    mut add: impl FnMut(&[Tensor]) -> Result<()>,
) -> Result<()> {
    let mut bucket = Bucket::default();
    for gradient in gradients {
        *gradient = gradient.contiguous()?;
        let flat = gradient.flatten_all()?;
        let mut start = 0;
        while start < flat.elem_count() {
            let len = (flat.elem_count() - start).min(most - bucket.filled);
            bucket.take(&flat, start, len, device)?;
            start += len;
            if bucket.filled == most {
                std::mem::take(&mut bucket).all_reduce(&mut add)?;
            }
        }
    }
    bucket.all_reduce(&mut add)
}

/// Parts of gradients that are added up together.
#[cfg(any(feature = "nccl", test))]
#[derive(Default)]
struct Bucket {
    filled: usize,
    wide: Vec<Tensor>,
    /// Of those that are copies: the number of the part, the gradient it comes from, and where it begins there.
    copies: Vec<(usize, Tensor, usize)>,
}

#[cfg(any(feature = "nccl", test))]
impl Bucket {
    fn take(&mut self, flat: &Tensor, start: usize, len: usize, device: &Device) -> Result<()> {
        let mut part = flat.narrow(0, start, len)?;
        let elsewhere = !flat.device().same_device(device);
        if elsewhere {
            // Of a view the whole tensor would be copied.
            part = part.force_contiguous()?.to_device(device)?;
        }
        if elsewhere || flat.dtype() != DType::F32 {
            self.copies.push((self.wide.len(), flat.clone(), start));
        }
        self.wide.push(part.to_dtype(DType::F32)?);
        self.filled += len;
        Ok(())
    }

    fn all_reduce(self, add: &mut impl FnMut(&[Tensor]) -> Result<()>) -> Result<()> {
        if self.wide.is_empty() {
            return Ok(());
        }
        add(&self.wide)?;
        for (part, home, start) in self.copies {
            let sum = self.wide[part].to_dtype(home.dtype())?;
            home.slice_set(&sum.to_device(home.device())?, 0, start)?;
        }
        Ok(())
    }
}

/// Adds tensor by tensor, in f32 and in the order of ranks.
pub(super) fn all_reduce(link: &Link, gradients: &mut BTreeMap<String, Tensor>) -> Result<()> {
    for gradient in gradients.values_mut() {
        let dtype = gradient.dtype();
        let own = to_bytes(gradient)?;
        let sum = if link.is_first() {
            let mut sum = values(&own, dtype);
            for rank in link.peers() {
                let bytes = link.receive(rank)?;
                check(rank, bytes.len(), own.len())?;
                for (sum, value) in sum.iter_mut().zip(values(&bytes, dtype)) {
                    *sum += value;
                }
            }
            sum
        } else {
            link.send(0, &own)?;
            let bytes = link.receive(0)?;
            check(0, bytes.len(), own.len())?;
            values(&bytes, dtype)
        };
        *gradient = Tensor::from_vec(sum, gradient.shape(), &Device::Cpu)?.to_dtype(dtype)?;
        if link.is_first() {
            let bytes = to_bytes(gradient)?;
            for rank in link.peers() {
                link.send(rank, &bytes)?;
            }
        }
    }
    Ok(())
}

fn check(rank: usize, got: usize, want: usize) -> Result<()> {
    if got == want {
        return Ok(());
    }
    let reason = format!("it sent {got} bytes where {want} were due");
    Err(DistError::Stranger { rank, reason })
}

fn to_bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let flat = tensor.flatten_all()?;
    if tensor.dtype() == DType::BF16 {
        let values = flat.to_vec1::<bf16>()?;
        return Ok(values.into_iter().flat_map(bf16::to_le_bytes).collect());
    }
    let values = flat.to_vec1::<f32>()?;
    Ok(values.into_iter().flat_map(f32::to_le_bytes).collect())
}

fn values(bytes: &[u8], dtype: DType) -> Vec<f32> {
    if dtype == DType::BF16 {
        let pairs = bytes.as_chunks().0.iter();
        return pairs
            .map(|pair| bf16::from_le_bytes(*pair).to_f32())
            .collect();
    }
    let quads = bytes.as_chunks().0.iter();
    quads.map(|quad| f32::from_le_bytes(*quad)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dist::rendezvous::Rendezvous;
    use std::time::Duration;

    pub(in super::super) fn gradients(rank: usize, dtype: DType) -> BTreeMap<String, Tensor> {
        let values: Vec<f32> = (0..600)
            .map(|i| ((i + 7 * rank) as f32 * 0.37).sin())
            .collect();
        let tensor = Tensor::from_vec(values, (20, 30), &Device::Cpu).unwrap();
        let tensor = tensor.to_dtype(dtype).unwrap();
        // As gradients come: one of them lies transposed in memory of its own.
        let turned = tensor.copy().unwrap().t().unwrap();
        BTreeMap::from([("a".to_owned(), tensor), ("b".to_owned(), turned)])
    }

    pub(in super::super) fn flat(tensor: &Tensor) -> Vec<f32> {
        let flat = tensor.to_dtype(DType::F32).unwrap().flatten_all().unwrap();
        flat.to_vec1().unwrap()
    }

    #[test]
    fn all_ranks_get_the_same_sums() {
        for dtype in [DType::F32, DType::BF16] {
            let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let rendezvous = |rank| Rendezvous {
                rank,
                size: 3,
                port: listener.local_addr().unwrap().port(),
                ..Rendezvous::alone()
            };
            let soon = Duration::from_secs(20);
            let others: Vec<_> = (1..3)
                .map(|rank| {
                    let rendezvous = rendezvous(rank);
                    std::thread::spawn(move || {
                        let link = Link::open(&rendezvous, soon).unwrap();
                        let mut gradients = gradients(rank, dtype);
                        all_reduce(&link, &mut gradients).unwrap();
                        gradients
                    })
                })
                .collect();
            let link = Link::gather(&rendezvous(0), &listener, soon, || Ok(())).unwrap();
            let mut sums = gradients(0, dtype);
            all_reduce(&link, &mut sums).unwrap();
            for other in others {
                let other = other.join().unwrap();
                for (name, sum) in &sums {
                    assert_eq!(flat(sum), flat(&other[name]));
                    assert_eq!(sum.dtype(), dtype);
                }
            }
            let parts: Vec<_> = (0..3).map(|rank| gradients(rank, dtype)).collect();
            for (name, sum) in &sums {
                assert_eq!(sum.dims(), parts[0][name].dims());
                let values = parts.iter().map(|part| flat(&part[name]));
                let want = values.reduce(|a, b| a.iter().zip(b).map(|(a, b)| a + b).collect());
                // bf16 keeps 8 bits.
                let bound = if dtype == DType::BF16 { 4e-3 } else { 1e-7 };
                for (got, want) in flat(sum).iter().zip(want.unwrap()) {
                    assert!(
                        (got - want).abs() <= bound * want.abs().max(1.0),
                        "{got} {want}"
                    );
                }
            }
        }
    }

    /// The sums that `size` ranks get from rank 0.
    pub(in super::super) fn by_rank_0(size: usize, dtype: DType) -> BTreeMap<String, Tensor> {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let rendezvous = |rank| Rendezvous {
            rank,
            size,
            port: listener.local_addr().unwrap().port(),
            ..Rendezvous::alone()
        };
        let soon = Duration::from_secs(20);
        std::thread::scope(|scope| {
            for rank in 1..size {
                let rendezvous = rendezvous(rank);
                scope.spawn(move || {
                    let link = Link::open(&rendezvous, soon).unwrap();
                    all_reduce(&link, &mut gradients(rank, dtype)).unwrap();
                });
            }
            let link = Link::gather(&rendezvous(0), &listener, soon, || Ok(())).unwrap();
            let mut sums = gradients(0, dtype);
            all_reduce(&link, &mut sums).unwrap();
            sums
        })
    }

    /// As NCCL does it, but that the other ranks' values are at hand.
    fn in_buckets_of(most: usize, size: usize, dtype: DType) -> BTreeMap<String, Tensor> {
        let others: Vec<Vec<f32>> = (1..size)
            .map(|rank| gradients(rank, dtype).values().flat_map(flat).collect())
            .collect();
        let mut sums = gradients(0, dtype);
        let mut done = 0;
        in_buckets(sums.values_mut(), &Device::Cpu, most, |parts| {
            let mut filled = 0;
            for part in parts {
                assert_eq!(part.dtype(), DType::F32);
                let mut values = flat(part);
                for other in &others {
                    for (sum, value) in values.iter_mut().zip(&other[done..]) {
                        *sum += value;
                    }
                }
                done += values.len();
                filled += values.len();
                part.slice_set(&Tensor::new(values, &Device::Cpu)?, 0, 0)?;
            }
            assert!(filled <= most);
            Ok(())
        })
        .unwrap();
        assert_eq!(done, 1200);
        sums
    }

    #[test]
    fn parts_of_gradients_give_the_sums_of_rank_0() {
        for dtype in [DType::F32, DType::BF16] {
            for size in [2, 4] {
                let wanted = by_rank_0(size, dtype);
                for most in [7, 600, 1000, 5000] {
                    let sums = in_buckets_of(most, size, dtype);
                    for (name, sum) in &sums {
                        assert_eq!(sum.dims(), wanted[name].dims());
                        assert_eq!(sum.dtype(), dtype);
                        assert_eq!(flat(sum), flat(&wanted[name]), "{dtype:?} {size} {most}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_sum_rounded_at_every_rank_is_another() {
        let parts: Vec<_> = (0..4).map(|rank| gradients(rank, DType::BF16)).collect();
        let rounded = |a: f32, b: f32| bf16::from_f32(a + b).to_f32();
        let hops = parts.iter().map(|part| flat(&part["a"]));
        let hops = hops.reduce(|a, b| a.iter().zip(b).map(|(a, b)| rounded(*a, b)).collect());
        let wanted = flat(&by_rank_0(4, DType::BF16)["a"]);
        let pairs = wanted.iter().zip(hops.unwrap());
        let differ = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert!(differ > wanted.len() / 10, "{differ} of {}", wanted.len());
    }

    #[test]
    fn other_shapes_are_noticed() {
        let shape = shape_of(&gradients(0, DType::F32));
        assert_eq!(shape, shape_of(&gradients(1, DType::F32)));
        assert_ne!(shape, shape_of(&gradients(0, DType::BF16)));
        assert_ne!(shape, shape_of(&BTreeMap::new()));
    }
}
