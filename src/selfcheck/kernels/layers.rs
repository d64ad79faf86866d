//! RMS normalisation, SwiGLU and rotary embeddings against their definitions.

use super::KernelCheck;
use super::TestTensor;
use super::ball::Accumulation;
use super::ball::Ball;
use super::gradients;
use candle_core::DType;
use candle_core::Device;
use candle_core::Result;
use candle_core::Tensor;
use rand::Rng;

const EPS: f64 = 1e-6;

impl KernelCheck<'_> {
    pub(super) fn norms(&mut self, width: usize) -> Result<()> {
        let [x, addend, grad_output] = self.several(&[self.sizes.rows, width])?;
        let weight = self.random(&[width])?;
        let w = weight.ball()?;
        let got = self.ops.rms_norm(&x.on_device, &weight.on_device, EPS)?;
        let ball = Norm::of(&x.ball()?)?.times(&w)?.rounded(self.dtype)?;
        let want = normed(&x.exact, &weight.exact)?;
        self.compare("rms_norm", &got, &want, &ball)?;

        let (sum, got) =
            self.ops
                .add_rms_norm(&x.on_device, &addend.on_device, &weight.on_device, EPS)?;
        // One addition, rounded once: nothing is left to the order.
        let want = (x.exact.to_dtype(DType::F32)? + addend.exact.to_dtype(DType::F32)?)?;
        let want = want.to_dtype(self.dtype)?.to_dtype(DType::F64)?;
        let stored = Ball::exact(&want)?;
        self.compare("add_rms_norm sum", &sum, &want, &stored)?;
        let ball = Norm::of(&stored)?.times(&w)?.rounded(self.dtype)?;
        self.compare("add_rms_norm", &got, &normed(&want, &weight.exact)?, &ball)?;

        let want = gradients(&[&x, &weight], &grad_output, |v| normed(&v[0], &v[1]))?;
        let [ball_dx, ball_dw] = Norm::of(&x.ball()?)?.backward(&w, &grad_output.ball()?)?;
        let (dx, dw) = self.ops.rms_norm_backward(
            &x.on_device,
            &weight.on_device,
            EPS,
            &grad_output.on_device,
            Some(&addend.on_device),
        )?;
        let want_dx = (&want[0] + &addend.exact)?;
        let ball_dx = ball_dx.plus(&addend.ball()?)?.rounded(self.dtype)?;
        self.compare("rms_norm_backward x", &dx, &want_dx, &ball_dx)?;
        let ball_dw = ball_dw.rounded(self.dtype)?;
        self.compare("rms_norm_backward weight", &dw, &want[1], &ball_dw)
    }

    pub(super) fn swiglu(&mut self, width: usize) -> Result<()> {
        let [gate, up, grad_output] = self.several(&[self.sizes.rows, width])?;
        let (x, u, d) = (gate.ball()?, up.ball()?, grad_output.ball()?);
        let one = Ball::exact(&Tensor::ones(1, DType::F64, &Device::Cpu)?)?;
        let sigmoid = one.over(&one.plus(&x.scaled(-1.0)?.exp()?)?)?;
        let silu = x.times(&sigmoid)?;
        let got = self.ops.swiglu(&gate.on_device, &up.on_device)?;
        let want = (gate.exact.silu()? * &up.exact)?;
        let ball = silu.times(&u)?.rounded(self.dtype)?;
        self.compare("swiglu", &got, &want, &ball)?;
        let (d_gate, d_up) =
            self.ops
                .swiglu_backward(&gate.on_device, &up.on_device, &grad_output.on_device)?;
        let want = gradients(&[&gate, &up], &grad_output, |v| {
            v[0].silu()? * v[1].as_tensor()
        })?;
        let slope = sigmoid.plus(&silu.times(&one.minus(&sigmoid)?)?)?;
        let ball = d.times(&u)?.times(&slope)?.rounded(self.dtype)?;
        self.compare("swiglu_backward gate", &d_gate, &want[0], &ball)?;
        let ball = d.times(&silu)?.rounded(self.dtype)?;
        self.compare("swiglu_backward up", &d_up, &want[1], &ball)
    }

    pub(super) fn rotary(&mut self) -> Result<()> {
        let (heads, half, rows) = ([16, 2], 64, self.sizes.rows);
        let angles: Vec<f32> = (0..rows * half)
            .map(|_| self.generator.random_range(0.0..std::f32::consts::TAU))
            .collect();
        let angles = Tensor::from_vec(angles, (rows, half), &Device::Cpu)?;
        let (cos, sin) = (angles.cos()?, angles.sin()?);
        let tables = (cos.to_device(self.device)?, sin.to_device(self.device)?);
        let (cos, sin) = (cos.to_dtype(DType::F64)?, sin.to_dtype(DType::F64)?);
        let x = self.random(&[rows, 16])?;
        let mut projections = Vec::new();
        for heads in heads {
            let width = heads * 2 * half;
            projections.push((self.random(&[width, 16])?, self.random(&[width])?));
        }
        let here = |at: usize| {
            let (weight, bias): &(TestTensor, TestTensor) = &projections[at];
            (weight.on_device.clone(), bias.on_device.clone())
        };
        let (q, k) =
            self.ops
                .rotary_projections(&x.on_device, &here(0), &here(1), &tables.0, &tables.1)?;
        for (kernel, got, (weight, bias)) in [
            ("rotary queries", &q, &projections[0]),
            ("rotary keys", &k, &projections[1]),
        ] {
            let product = x.exact.matmul(&weight.exact.t()?)?;
            let want = rotated(&product.broadcast_add(&bias.exact)?, &cos, &sin)?;
            let sums = Accumulation::MatrixProduct(self.dtype);
            // Stored before the bias is added.
            let stored = x
                .ball()?
                .matmul(&weight.ball()?.t()?, sums)?
                .rounded(self.dtype)?;
            let ball = rotated_ball(&stored.plus(&bias.ball()?)?, &cos, &sin)?;
            self.compare(kernel, got, &want, &ball.rounded(self.dtype)?)?;
        }
        let grad_output = self.random(&[self.sizes.rows, 2 * 2 * half])?;
        let got = self
            .ops
            .rotary_backward(&grad_output.on_device, &tables.0, &tables.1)?;
        let back = sin.neg()?;
        let want = rotated(&grad_output.exact, &cos, &back)?;
        let ball = rotated_ball(&grad_output.ball()?, &cos, &back)?.rounded(self.dtype)?;
        self.compare("rotary_backward", &got, &want, &ball)
    }
}

fn normed(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(1)? + EPS)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// Rows `x` divided by their root mean square, of which `inverse` is the inverse.
struct Norm {
    x: Ball,
    inverse: Ball,
}

impl Norm {
    fn of(x: &Ball) -> Result<Self> {
        let width = x.value().dim(1)? as f64;
        let eps = Ball::exact(&Tensor::new(&[[EPS]], &Device::Cpu)?)?;
        let squares = x.times(x)?.sum(1, Accumulation::Kernel)?;
        let inverse = squares.scaled(1.0 / width)?.plus(&eps)?.inverse_root()?;
        Ok(Self {
            x: x.clone(),
            inverse,
        })
    }

    fn times(&self, weight: &Ball) -> Result<Ball> {
        self.x.times(&self.inverse)?.times(weight)
    }

    /// Gradients of the rows and of the weight.
    fn backward(&self, weight: &Ball, grad_output: &Ball) -> Result<[Ball; 2]> {
        let width = self.x.value().dim(1)? as f64;
        let scaled = grad_output.times(weight)?;
        let along = scaled.times(&self.x)?.sum(1, Accumulation::Kernel)?;
        let pull = along.times(&self.inverse)?.times(&self.inverse)?;
        let pulled = self.x.times(&pull.scaled(1.0 / width)?)?;
        let dx = scaled.minus(&pulled)?.times(&self.inverse)?;
        let dw = grad_output.times(&self.x)?.times(&self.inverse)?;
        Ok([
            dx,
            dw.sum(0, Accumulation::Kernel)?.shaped(|x| x.squeeze(0))?,
        ])
    }
}

/// The first half of every head against the second.
pub(super) fn rotated(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let halves = x.reshape((rows, (), 2, half))?;
    let (a, b) = (halves.narrow(2, 0, 1)?, halves.narrow(2, 1, 1)?);
    let (cos, sin) = (
        cos.reshape((rows, 1, 1, half))?,
        sin.reshape((rows, 1, 1, half))?,
    );
    let low = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let high = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[low, high], 2)?.reshape(x.shape())
}

/// As [`rotated`].
pub(super) fn rotated_ball(x: &Ball, cos: &Tensor, sin: &Tensor) -> Result<Ball> {
    let (rows, half) = cos.dims2()?;
    let part = |at: usize| x.shaped(|x| x.reshape((rows, (), 2, half))?.narrow(2, at, 1));
    let (a, b) = (part(0)?, part(1)?);
    let table = |x: &Tensor| Ball::exact(&x.reshape((rows, 1, 1, half))?);
    let (cos, sin) = (table(cos)?, table(sin)?);
    let low = a.times(&cos)?.minus(&b.times(&sin)?)?;
    let high = b.times(&cos)?.plus(&a.times(&sin)?)?;
    let shape = x.value().shape();
    Ball::cat(&[low, high], 2)?.shaped(|x| x.reshape(shape))
}
