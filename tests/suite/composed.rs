//! The decoder in candle's own operations over the variables, from which candle's autograd derives every gradient.

use candle_core::{D, Device, Result, Tensor};
use videothinker::model::packed::PackedLayout;
use videothinker::policy::Policy;
use videothinker::policy::inputs::PackedInputs;
use videothinker::policy::logprobs::video_tokens;

/// Log-probabilities `[R]` of the targets, as a function of the decoder's variables.
pub(crate) fn composed_logprob(policy: &Policy, inputs: &PackedInputs) -> Result<Tensor> {
    let model = policy.model();
    let weight = |name: &str| policy.vars()[name].as_tensor();
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu);
    let embedding = weight("model.embed_tokens.weight");
    let mut x = embedding.index_select(&ids(&inputs.token_ids)?, 0)?;
    if let Some(video) = video_tokens(model, inputs)? {
        let mut source: Vec<u32> = (0..inputs.num_rows() as u32).collect();
        for (token, &row) in inputs.video_rows.iter().enumerate() {
            source[row as usize] = (inputs.num_rows() + token) as u32;
        }
        x = Tensor::cat(&[&x, &video], 0)?.index_select(&ids(&source)?, 0)?;
    }
    let (tables, mask) = (model.rotary(&inputs.positions)?, mask(&inputs.layout)?);
    let eps = model.spec.text.rms_norm_eps;
    for index in 0..model.layers.len() {
        let get = |name: &str| weight(&format!("model.layers.{index}.{name}"));
        let normed = norm(&x, get("input_layernorm.weight"), eps)?;
        let project = |name: &str| -> Result<Tensor> {
            let weight = get(&format!("self_attn.{name}.weight"));
            let product = normed.matmul(&weight.t()?)?;
            product.broadcast_add(get(&format!("self_attn.{name}.bias")))
        };
        let q = turned(&project("q_proj")?, &tables)?;
        let k = turned(&project("k_proj")?, &tables)?;
        let attended = attended(
            [&q, &k, &project("v_proj")?],
            model.layers[index].heads().head_dim,
            &mask,
        )?;
        x = (x + attended.matmul(&get("self_attn.o_proj.weight").t()?)?)?;
        let normed = norm(&x, get("post_attention_layernorm.weight"), eps)?;
        let gate = normed.matmul(&get("mlp.gate_proj.weight").t()?)?;
        let up = normed.matmul(&get("mlp.up_proj.weight").t()?)?;
        x = (x + (gate.silu()? * up)?.matmul(&get("mlp.down_proj.weight").t()?)?)?;
    }
    let hidden = x.index_select(&ids(&inputs.target_rows)?, 0)?;
    let hidden = norm(&hidden, weight("model.norm.weight"), eps)?;
    let head = if model.spec.tie_word_embeddings {
        embedding
    } else {
        weight("lm_head.weight")
    };
    let log_p = candle_nn::ops::log_softmax(&hidden.matmul(&head.t()?)?, 1)?;
    let targets = ids(&inputs.target_ids)?.unsqueeze(1)?;
    log_p.gather(&targets, 1)?.squeeze(1)
}

fn norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let root = (x.sqr()?.mean_keepdim(D::Minus1)? + eps)?.sqrt()?;
    x.broadcast_div(&root)?.broadcast_mul(weight)
}

/// The pairs `(x_i, x_{i + d/2})` of every head turned: `x [N, heads · d]`, tables `[N, d/2]`.
fn turned(x: &Tensor, (cos, sin): &(Tensor, Tensor)) -> Result<Tensor> {
    let (rows, half) = cos.dims2()?;
    let heads = x.reshape((rows, (), 2 * half))?;
    let (a, b) = (heads.narrow(2, 0, half)?, heads.narrow(2, half, half)?);
    let (cos, sin) = (cos.unsqueeze(1)?, sin.unsqueeze(1)?);
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    Tensor::cat(&[first, second], 2)?.reshape(x.shape())
}

/// `q [N, n·d]` over `k`, `v` `[N, m·d]`, head by head, with `mask [N, N]` added to the scores.
fn attended([q, k, v]: [&Tensor; 3], dim: usize, mask: &Tensor) -> Result<Tensor> {
    let per_key_head = q.dim(1)? / k.dim(1)?;
    let of_head = |head: usize| -> Result<Tensor> {
        let part = |x: &Tensor, head: usize| x.narrow(1, head * dim, dim)?.contiguous();
        let (k, v) = (part(k, head / per_key_head)?, part(v, head / per_key_head)?);
        let scores = (part(q, head)?.matmul(&k.t()?)? / (dim as f64).sqrt())?;
        candle_nn::ops::softmax(&(scores + mask)?, D::Minus1)?.matmul(&v)
    };
    let heads: Vec<Tensor> = (0..q.dim(1)? / dim).map(of_head).collect::<Result<_>>()?;
    Tensor::cat(&heads, 1)
}

/// `[N, N]`: 0 where a row sees a key, −∞ elsewhere.
fn mask(layout: &PackedLayout) -> Result<Tensor> {
    let rows = layout.num_rows();
    let mut mask = vec![f32::NEG_INFINITY; rows * rows];
    let mut see = |row: usize, keys: std::ops::Range<usize>| {
        mask[row * rows + keys.start..row * rows + keys.end].fill(0.0);
    };
    let mut start = 0;
    for group in layout.groups() {
        let prompt = start..start + group.prompt_len;
        prompt.clone().for_each(|row| see(row, start..row + 1));
        let mut first = prompt.end;
        for &len in &group.completion_lens {
            for row in first..first + len {
                see(row, prompt.clone());
                see(row, first..row + 1);
            }
            first += len;
        }
        start = first;
    }
    Tensor::from_vec(mask, (rows, rows), &Device::Cpu)
}
