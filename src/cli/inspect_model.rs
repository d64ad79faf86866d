//! `inspect model`: the sizes of a model folder, and folders with random weights.

use super::BadArgument;
use super::eval::model_folder;
use super::init;
use super::output;
use crate::config::DTypeName;
use crate::model::export::SHARD_BYTES;
use crate::model::export::copy_companions;
use crate::model::random;
use crate::model::spec::Spec;
use crate::model::weights::Depth;
use crate::model::weights::expected_shapes;
use crate::model::weights::inspect;
use crate::prompt::tokenizer::TextTokenizer;
use crate::util::atomic;
use crate::util::file;
use anyhow::Result;
use candle_core::DType;
use clap::Args;
use serde::Serialize;
use std::path::Path;
use std::path::PathBuf;

/// Arguments of `inspect model`.
#[derive(Debug, Args)]
pub(super) struct ModelArgs {
    /// A model folder or hub id; with --init a new folder
    #[arg(value_name = "DIR")]
    model: String,
    /// First write DIR with random weights: `3b` (Qwen2.5-VL-3B), `tiny` (its head widths, 2 layers), or the folder or
    /// config.json of a model of those sizes
    #[arg(long, value_name = "SPEC")]
    init: Option<String>,
    /// With --init: the model folder whose tokenizer and processor files are copied [default: a small tokenizer is made]
    #[arg(long, value_name = "DIR", requires = "init")]
    tokenizer: Option<PathBuf>,
    /// With --init: number format of the weights
    #[arg(long, value_name = "bf16|f32", default_value = "bf16", value_parser = number_format)]
    dtype: DTypeName,
    /// With --init: equal seeds give equal weights
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Read every value too: those that are not finite are an error, huge ones and matrices of zeros are warned of
    #[arg(long)]
    deep: bool,
    /// With --init: most bytes of one file
    #[arg(long, value_name = "BYTES", default_value_t = SHARD_BYTES)]
    shard_bytes: u64,
}

fn number_format(name: &str) -> Result<DTypeName, String> {
    match name {
        "bf16" => Ok(DTypeName::Bf16),
        "f32" => Ok(DTypeName::F32),
        _ => Err("expected bf16 or f32".into()),
    }
}

/// What `inspect model` prints.
#[derive(Debug, Serialize)]
struct ModelView {
    spec: Spec,
    parameters: Parameters,
    /// Bytes of the tensors as stored.
    bytes: u64,
}

/// Numbers of parameters by part.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
struct Parameters {
    vision: usize,
    embedding: usize,
    layers: usize,
    /// Untied only.
    head: usize,
    /// The last norm.
    norm: usize,
    total: usize,
}

impl Parameters {
    fn of(spec: &Spec) -> Self {
        let mut parameters = Self::default();
        for (name, shape) in expected_shapes(spec) {
            let part = if name.starts_with("visual.") {
                &mut parameters.vision
            } else if name.starts_with("model.layers.") {
                &mut parameters.layers
            } else if name.starts_with("model.embed_tokens.") {
                &mut parameters.embedding
            } else if name.starts_with("lm_head.") {
                &mut parameters.head
            } else {
                &mut parameters.norm
            };
            *part += shape.elem_count();
            parameters.total += shape.elem_count();
        }
        parameters
    }
}

pub(super) fn run(args: &ModelArgs) -> Result<()> {
    if let Some(sizes) = &args.init {
        write_new(args, sizes)?;
    }
    let folder = model_folder(&args.model)?;
    let spec = Spec::load(&folder)?;
    let depth = if args.deep {
        Depth::Values
    } else {
        Depth::Headers
    };
    output::json(&ModelView {
        parameters: Parameters::of(&spec),
        bytes: inspect(&folder, &spec, depth)?,
        spec,
    })
}

fn write_new(args: &ModelArgs, sizes: &str) -> Result<()> {
    let folder = Path::new(&args.model);
    if folder.join("config.json").exists() {
        let problem = format!("{}: there is a model already", folder.display());
        return Err(BadArgument(problem).into());
    }
    file::create_folders(folder)?;
    atomic::remove_unfinished(folder)?;
    let tokenizer = match &args.tokenizer {
        Some(source) => {
            copy_companions(source, folder)?;
            TextTokenizer::load(folder)?
        }
        None => init::write_tokenizer(folder, std::iter::empty())?,
    };
    let tokens = init::special_tokens(&tokenizer)?;
    let spec = match sizes {
        "3b" => random::three_billion(tokens),
        "tiny" => random::tiny(tokens, tokenizer.vocab_size()),
        path => Spec {
            tokens,
            ..Spec::load(spec_folder(path)?)?
        },
    };
    if spec.text.vocab_size < tokenizer.vocab_size() {
        let problem = format!(
            "--init {sizes}: {} rows of the embedding are too few for a tokenizer of {} tokens",
            spec.text.vocab_size,
            tokenizer.vocab_size()
        );
        return Err(BadArgument(problem).into());
    }
    let dtype = match args.dtype {
        DTypeName::Bf16 => DType::BF16,
        DTypeName::F32 => DType::F32,
    };
    random::write_random(folder, &spec, args.seed, dtype, args.shard_bytes)?;
    Ok(())
}

/// The folder that holds the config.json that `path` is or holds.
fn spec_folder(path: &str) -> Result<&Path, BadArgument> {
    let path = Path::new(path);
    if path.join("config.json").is_file() {
        return Ok(path);
    }
    match path.parent() {
        Some(folder) if path.is_file() && path.ends_with("config.json") => Ok(folder),
        _ => Err(BadArgument(format!(
            "--init {}: expected 3b, tiny, a model folder or a config.json",
            path.display()
        ))),
    }
}
