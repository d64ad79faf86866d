//! How often the driver is called for a token and for a layer: what a card waits for where its work is small. Counted as
//! differences, so that what happens once is not in them.

use crate::run::{Run, assert_code, world};
use crate::software::{ask, assert_clean, call, program, small};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Calls of the driver and of cuBLAS by name, as the software device counts them.
struct Counts(BTreeMap<String, i64>);

impl Counts {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        Self(
            lines
                .map(|line| {
                    let mut words = line.split_whitespace();
                    let count = words.next().unwrap().parse().unwrap();
                    (words.skip(1).collect::<Vec<_>>().join(" "), count)
                })
                .collect(),
        )
    }

    fn sum(&self, of: impl Fn(&str) -> bool) -> i64 {
        let found = self.0.iter().filter(|(name, _)| of(name));
        found.map(|(_, count)| count).sum()
    }

    /// Kernels and products that are queued.
    fn launches(&self) -> i64 {
        self.sum(|name| name == "cuLaunchKernel" || name.starts_with("cublas"))
    }

    fn allocations(&self) -> i64 {
        self.sum(|name| name == "cuMemAllocAsync")
    }

    fn graphs(&self) -> i64 {
        self.sum(|name| name == "cuGraphLaunch")
    }
}

/// The untrained miniature with so many layers, in `folder`.
fn model(folder: &Path, layers: usize) -> String {
    let of = world().join("untrained");
    let config = std::fs::read_to_string(of.join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&config).unwrap();
    config["num_hidden_layers"] = json!(layers);
    let sizes = folder.join("config.json");
    std::fs::write(&sizes, config.to_string()).unwrap();
    let model = folder.join(format!("{layers}"));
    let mut init = program();
    init.args(["inspect", "model"]).arg(&model);
    init.arg("--init").arg(sizes).arg("--tokenizer").arg(of);
    init.args(["--dtype", "f32"]);
    assert_code(&init.output().unwrap(), 0);
    model.display().to_string()
}

/// An answer of `tokens` tokens.
fn answer(folder: &Path, layers: usize, tokens: usize, graph: bool) -> Counts {
    let counts = folder.join("counts");
    let model = model(folder, layers);
    let (tokens, graph) = (tokens.to_string(), format!("sampling.cuda_graph={graph}"));
    let arguments = ask(&model, &tokens, &["--greedy", "--set", &graph]);
    let output = call(
        &arguments,
        "cuda:0",
        &[("SIM_COUNTS", counts.to_str().unwrap())],
    );
    assert_clean(&output);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let length = answer["token_ids"].as_array().unwrap().len();
    assert_eq!(length.to_string(), tokens, "it was not cut off: {answer}");
    std::fs::remove_dir_all(model).unwrap();
    Counts::read(&counts)
}

/// Launches, allocations and graphs of `tokens` tokens beyond those of an answer of 9.
fn of_tokens(layers: usize, tokens: i64, graph: bool) -> [i64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let few = answer(folder.path(), layers, 9, graph);
    let more = answer(folder.path(), layers, 9 + tokens as usize, graph);
    [Counts::launches, Counts::allocations, Counts::graphs].map(|of| of(&more) - of(&few))
}

#[test]
fn a_decoded_token_is_launched_no_more_often_than_it_was() {
    let tokens = 24;
    let [two, four] = [2, 4].map(|layers| of_tokens(layers, tokens, false));
    let a_layer = [0, 1].map(|i| (four[i] - two[i]) / (2 * tokens));
    // Seven products and as many kernels.
    assert!(
        a_layer[0] <= 14 && a_layer[1] <= 16,
        "{a_layer:?} of a layer"
    );
    // Embedding, head and sampler; every eight tokens the rows' state goes to the device.
    let rest = [0, 1].map(|i| two[i] - 2 * tokens * a_layer[i]);
    assert!(
        rest[0] <= 162 && rest[1] <= 186,
        "{rest:?} of {tokens} tokens"
    );
    // As a graph a token is one launch; its products are counted when they run.
    let [launches, allocations, graphs] = of_tokens(4, tokens, true);
    assert_eq!(graphs, tokens);
    let products = tokens * (4 * 7 + 1);
    assert!(
        launches - products <= 18 && allocations <= 18,
        "{launches} {allocations}"
    );
}

/// Launches and allocations of the second of two steps.
fn of_step(layers: usize) -> [i64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let model = model(folder.path(), layers);
    let [one, two] = ["1", "2"].map(|steps| {
        let mut run = small(Run::new("train-sft")).on_device();
        run.set("model.path", &model);
        run.set("optimizer.schedule", "constant");
        run.set("train.steps", steps);
        let counts = folder.path().join("counts");
        assert_clean(&run.run_with(&[("SIM_COUNTS", counts.to_str().unwrap())]));
        Counts::read(&counts)
    });
    [Counts::launches, Counts::allocations].map(|of| of(&two) - of(&one))
}

#[test]
fn a_trained_layer_is_launched_no_more_often_than_it_was() {
    let [two, four] = [2, 4].map(of_step);
    let a_layer = [0, 1].map(|i| (four[i] - two[i]) / 2);
    // Forward, forward again, backward, and the update of its twelve weights.
    assert!(
        a_layer[0] <= 97 && a_layer[1] <= 73,
        "{a_layer:?} of a layer"
    );
    // The vision tower, the embedding and the head.
    let rest = [0, 1].map(|i| two[i] - 2 * a_layer[i]);
    assert!(rest[0] <= 310 && rest[1] <= 301, "{rest:?} of a step");
}
