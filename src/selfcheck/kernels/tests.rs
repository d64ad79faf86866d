use super::ball::Accumulation;
use super::ball::Ball;
use super::head;
use super::layers::{rotated, rotated_ball};
use super::*;
use crate::model::ops::Ops;
use crate::model::ops::heads::Heads;

#[test]
fn the_cpu_computes_what_is_defined() {
    for sizes in [ProblemSizes::FULL, ProblemSizes::SMALL] {
        let found = compare_kernels(&Device::Cpu, sizes).unwrap();
        assert!(found.len() > 20, "{}", found.len());
        for comparison in found {
            assert!(comparison.holds(), "{comparison:?}");
            // The largest is of a sum over all rows; one that nothing reaches would see nothing.
            assert!(comparison.bound < 1e-2, "{comparison:?}");
        }
    }
}

fn checked(
    dtype: DType,
    body: impl FnOnce(&mut KernelCheck) -> Result<()>,
) -> Vec<KernelComparison> {
    let mut found = Vec::new();
    let mut check = KernelCheck {
        ops: Ops::Cpu,
        device: &Device::Cpu,
        dtype,
        sizes: ProblemSizes::FULL,
        generator: ChaCha8Rng::seed_from_u64(1),
        found: &mut found,
    };
    body(&mut check).unwrap();
    found
}

#[test]
fn errors_and_missing_values_are_seen() {
    let found = checked(DType::F32, |check| {
        check.compare_values("same", &[1.0, -20.0], &[1.0, -20.0], &[0.0, 0.0]);
        check.compare_values("near", &[1.0, -20.1], &[1.0, -20.0], &[0.0, 0.2]);
        check.compare_values("far", &[1.0, -20.1], &[1.0, -20.0], &[0.2, 0.05]);
        check.compare_values("off 0", &[1.5, 1e-9], &[1.0, 0.0], &[1.0, 0.0]);
        check.compare_values("not a number", &[f64::NAN], &[1.0], &[9.0]);
        check.compare_values("no bound", &[1.0], &[1.0], &[]);
        check.compare_values("fewer", &[1.0], &[1.0, 1.0], &[9.0, 9.0]);
        Ok(())
    });
    let holds: Vec<bool> = found.iter().map(KernelComparison::holds).collect();
    assert_eq!(holds, [true, true, false, false, false, false, false]);
    assert!((found[2].max_error - 0.1).abs() < 1e-9);
    assert!((found[2].bound - 0.05).abs() < 1e-9);
}

#[test]
fn bounds_of_something_else_are_refused() {
    let values = Tensor::new(&[1f64, 2.0], &Device::Cpu).unwrap();
    let ball = Ball::exact(&values).unwrap();
    assert!(ball.bounds_of(&values).is_ok());
    assert!(ball.bounds_of(&(&values + 1e-6).unwrap()).is_err());
}

/// Ways to add up the products of two columns as devices do.
#[derive(Debug, Clone, Copy)]
enum Order {
    Chain,
    Backwards,
    Pairs,
    /// Parts of so many, each a chain, as split over blocks.
    Parts(usize),
    /// Eight products at a time, cut off instead of rounded.
    TensorCores,
}

const ORDERS: [Order; 5] = [
    Order::Chain,
    Order::Backwards,
    Order::Pairs,
    Order::Parts(4096),
    Order::Parts(37),
];

fn cut_off(x: f64) -> f32 {
    let nearest = x as f32;
    if f64::from(nearest).abs() > x.abs() {
        f32::from_bits(nearest.to_bits() - 1)
    } else {
        nearest
    }
}

fn sum_of_products(a: &[f32], b: &[f32], order: Order) -> f32 {
    // Fused: the product is not rounded by itself.
    let add =
        |sum: f32, (a, b): (&f32, &f32)| (f64::from(sum) + f64::from(*a) * f64::from(*b)) as f32;
    match order {
        Order::Backwards => a.iter().zip(b).rev().fold(0.0, add),
        Order::Pairs if a.len() > 1 => {
            let half = a.len() / 2;
            sum_of_products(&a[..half], &b[..half], order)
                + sum_of_products(&a[half..], &b[half..], order)
        }
        Order::Chain | Order::Pairs => a.iter().zip(b).fold(0.0, add),
        Order::Parts(size) => {
            let parts = a.chunks(size).zip(b.chunks(size));
            parts.fold(0.0, |sum, (a, b)| sum + sum_of_products(a, b, Order::Chain))
        }
        Order::TensorCores => {
            let groups = a.chunks(8).zip(b.chunks(8));
            groups.fold(0.0, |sum, (a, b)| {
                let products = a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b));
                cut_off(f64::from(sum) + products.sum::<f64>())
            })
        }
    }
}

/// `a [M, K] · b [K, N]` of values in f32, or in bf16 for tensor cores; the result in f64.
fn product(a: &Tensor, b: &Tensor, order: Order) -> Result<Tensor> {
    let rows = |x: &Tensor| x.to_dtype(DType::F32)?.to_vec2::<f32>();
    let (rows, columns) = (rows(a)?, rows(&b.t()?.contiguous()?)?);
    let values: Vec<f32> = rows
        .iter()
        .flat_map(|row| {
            columns
                .iter()
                .map(|column| sum_of_products(row, column, order))
        })
        .collect();
    Tensor::from_vec(values, (rows.len(), columns.len()), &Device::Cpu)?.to_dtype(DType::F64)
}

fn in_format(x: &Tensor, dtype: DType) -> Result<Tensor> {
    x.to_dtype(dtype)?.to_dtype(DType::F64)
}

/// The rows and columns of a check's head, the derivatives of its logits, what is defined and what is allowed.
struct HeadCase {
    d_logits: Tensor,
    weight: Tensor,
    want: Tensor,
    ball: Ball,
}

fn head_case(check: &mut KernelCheck) -> Result<HeadCase> {
    let [hidden, bias_hidden] = check.several(&[6, 4])?;
    let [weight, bias_weight] = check.several(&[151_936, 4])?;
    let (hiddens, weights) = (
        [&hidden.exact, &bias_hidden.exact],
        [&weight.exact, &bias_weight.exact],
    );
    let want = head::reference(hiddens, weights)?.d_hidden;
    let bounds = head::bounds(hiddens, weights, check.dtype, &[6])?;
    Ok(HeadCase {
        d_logits: bounds.d_logits.value().clone(),
        weight: weight.exact,
        want,
        ball: bounds.d_hidden,
    })
}

/// The longest sum there is, in any order; and what is left out or mixed up there.
#[test]
fn the_heads_sum_holds_in_any_order_and_misses_nothing() {
    for dtype in [DType::F32, DType::BF16] {
        let mut held = 0;
        let found = checked(dtype, |check| {
            let case = head_case(check)?;
            let d_logits = in_format(&case.d_logits, dtype)?;
            let orders: &[Order] = if dtype == DType::F32 {
                &ORDERS
            } else {
                &[Order::TensorCores, Order::Parts(4096)]
            };
            for &order in orders {
                let got = in_format(&product(&d_logits, &case.weight, order)?, dtype)?;
                check.compare("in order", &got, &case.want, &case.ball)?;
                held += 1;
            }
            let columns = |from: usize, len: usize| {
                let rest = 151_936 - from - len;
                let ones = |len: usize| Tensor::ones((1, len), DType::F64, &Device::Cpu);
                let hole = Tensor::zeros((1, len), DType::F64, &Device::Cpu)?;
                let kept = Tensor::cat(&[&ones(from)?, &hole, &ones(rest)?], 1)?;
                d_logits.broadcast_mul(&kept)
            };
            let scaled = |by: f64| -> Result<Tensor> {
                let by = Tensor::new(&[[1.0], [1.0], [by], [1.0], [1.0], [1.0]], &Device::Cpu)?;
                d_logits.broadcast_mul(&by)
            };
            let rows = Tensor::new(&[1u32, 2, 3, 4, 5, 0], &Device::Cpu)?;
            let mut wrong = vec![
                ("a target left out", columns(7, 1)?),
                ("another row", d_logits.index_select(&rows, 0)?),
                ("half a row", scaled(0.5)?),
            ];
            // Tensor cores may be off by more.
            if dtype == DType::F32 {
                wrong.push(("a part left out", columns(4096, 4096)?));
                wrong.push(("a row off by a hundredth", scaled(1.01)?));
            }
            for (name, wrong) in wrong {
                let got = in_format(&product(&wrong, &case.weight, Order::Parts(4096))?, dtype)?;
                check.compare(name, &got, &case.want, &case.ball)?;
            }
            Ok(())
        });
        let (right, wrong) = found.split_at(held);
        assert!(right.iter().all(KernelComparison::holds), "{right:?}");
        assert!(!wrong.iter().any(KernelComparison::holds), "{wrong:?}");
    }
}

/// Products that are stored before a bias is added and halves are rotated, and what goes wrong there.
#[test]
fn rotary_projections_hold_as_rounded_and_miss_nothing() {
    let dtype = DType::BF16;
    let found = checked(dtype, |check| {
        let x = check.random(&[300, 16])?;
        let unrounded: Vec<f32> = (0..256 * 16)
            .map(|_| check.generator.random_range(-1.7..1.7))
            .collect();
        let unrounded = Tensor::from_vec(unrounded, (256, 16), &Device::Cpu)?;
        let weight = in_format(&unrounded, dtype)?;
        let bias = check.random(&[256])?.exact;
        let angles = check.random(&[300, 64])?.exact;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let sums = Accumulation::MatrixProduct(dtype);
        let stored = x.ball()?.matmul(&Ball::exact(&weight)?.t()?, sums)?;
        let stored = stored.rounded(dtype)?.plus(&Ball::exact(&bias)?)?;
        let ball = rotated_ball(&stored, &cos, &sin)?.rounded(dtype)?;
        let as_defined = |weight: &Tensor, bias: &Tensor| {
            let product = x.exact.matmul(&weight.t()?)?;
            rotated(&product.broadcast_add(bias)?, &cos, &sin)
        };
        let want = as_defined(&weight, &bias)?;
        let on_device = |weight: &Tensor, bias: &Tensor, order: Order| {
            let stored = in_format(&product(&x.exact, &weight.t()?, order)?, dtype)?;
            in_format(&rotated(&stored.broadcast_add(bias)?, &cos, &sin)?, dtype)
        };
        for order in [Order::Chain, Order::Pairs, Order::TensorCores] {
            let got = on_device(&weight, &bias, order)?;
            check.compare("in order", &got, &want, &ball)?;
        }
        let swapped = Tensor::cat(&[weight.narrow(0, 128, 128)?, weight.narrow(0, 0, 128)?], 0)?;
        let short = Tensor::cat(
            &[
                weight.narrow(1, 0, 15)?,
                weight.narrow(1, 0, 1)?.zeros_like()?,
            ],
            1,
        )?;
        let order = Order::Chain;
        for (name, got) in [
            (
                "a head in another's place",
                on_device(&swapped, &bias, order)?,
            ),
            ("a term left out", on_device(&short, &bias, order)?),
            ("no bias", on_device(&weight, &bias.zeros_like()?, order)?),
            (
                "weights that are not in the format",
                on_device(&unrounded.to_dtype(DType::F64)?, &bias, order)?,
            ),
            ("turned back", {
                let product = x.exact.matmul(&weight.t()?)?.broadcast_add(&bias)?;
                rotated(&product, &cos, &sin.neg()?)?
            }),
        ] {
            check.compare(name, &got, &want, &ball)?;
        }
        Ok(())
    });
    let (right, wrong) = found.split_at(3);
    assert!(right.iter().all(KernelComparison::holds), "{right:?}");
    assert!(!wrong.iter().any(KernelComparison::holds), "{wrong:?}");
}

/// Two query heads of a key head, rounded where the kernels round, and what goes wrong there.
#[test]
fn attention_holds_as_rounded_and_misses_nothing() {
    let heads = Heads {
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 16,
    };
    for dtype in [DType::F32, DType::BF16] {
        let found = checked(dtype, |check| {
            let (rows, dim) = (40, heads.head_dim);
            let q = check.random(&[rows, 4 * dim])?;
            let [k, v] = check.several(&[rows, 2 * dim])?;
            let mask = attention::mask(rows, |query, key| key <= query)?;
            let want =
                attention::reference_attention([&q.exact, &k.exact, &v.exact], heads, &mask)?;
            let ball = [q.ball()?, k.ball()?, v.ball()?];
            let ball = attention::attention_ball(ball.each_ref(), heads, &mask, dtype)?;
            let on_device = |q: &Tensor, k: &Tensor, v: &Tensor, mask: &Tensor| -> Result<Tensor> {
                let of_head = |head: usize| -> Result<Tensor> {
                    let part = |x: &Tensor, head: usize| x.narrow(1, head * dim, dim)?.contiguous();
                    let (q, k, v) = (part(q, head)?, part(k, head / 2)?, part(v, head / 2)?);
                    let order = if dtype == DType::F32 {
                        Order::Chain
                    } else {
                        Order::TensorCores
                    };
                    let scores = ((product(&q, &k.t()?, order)? / 4.0)? + mask)?;
                    let scores = scores.broadcast_sub(&scores.max_keepdim(1)?)?;
                    let weights = in_format(&scores.exp()?, DType::F32)?;
                    let mixed = product(&in_format(&weights, dtype)?, &v, order)?;
                    in_format(&mixed.broadcast_div(&weights.sum_keepdim(1)?)?, dtype)
                };
                let heads = (0..4).map(of_head).collect::<Result<Vec<_>>>()?;
                Tensor::cat(&heads, 1)
            };
            let got = on_device(&q.exact, &k.exact, &v.exact, &mask)?;
            check.compare("right", &got, &want, &ball)?;
            let swap = |x: &Tensor| Tensor::cat(&[x.narrow(1, dim, dim)?, x.narrow(1, 0, dim)?], 1);
            let sees_less =
                attention::mask(rows, |query, key| key == query || (key < query && key != 3))?;
            for (name, got) in [
                (
                    "key heads swapped",
                    on_device(&q.exact, &swap(&k.exact)?, &v.exact, &mask)?,
                ),
                (
                    "value heads swapped",
                    on_device(&q.exact, &k.exact, &swap(&v.exact)?, &mask)?,
                ),
                (
                    "a key not seen",
                    on_device(&q.exact, &k.exact, &v.exact, &sees_less)?,
                ),
                (
                    "a key behind the query seen",
                    on_device(
                        &q.exact,
                        &k.exact,
                        &v.exact,
                        &attention::mask(rows, |query, key| key <= query + 1)?,
                    )?,
                ),
            ] {
                check.compare(name, &got, &want, &ball)?;
            }
            Ok(())
        });
        assert!(found[0].holds(), "{found:?}");
        assert!(!found[1..].iter().any(KernelComparison::holds), "{found:?}");
    }
}
