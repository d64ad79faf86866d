//! How an evaluation differs from what the protocol's own program does.

use super::ProtocolWords;
use super::source;
use crate::config::Benchmark;
use crate::config::EvalConfig;
use crate::config::Protocol;

/// How a protocol differs from what its own program does: a line each in the scores.
pub(in crate::eval) fn remarks(config: &EvalConfig, words: Option<&ProtocolWords>) -> Vec<String> {
    let Some(protocol) = config.protocol else {
        return Vec::new();
    };
    let mut remarks: Vec<String> = match protocol {
        Protocol::Authors => authors_remarks(config.benchmark),
        Protocol::Official => config.benchmark.map_or_else(Vec::new, official_remarks),
    };
    let file = words.and_then(ProtocolWords::file);
    let is_own = config.template.is_some();
    let asks_as_here =
        protocol == Protocol::Official && config.benchmark == Some(Benchmark::Clevrer);
    remarks.push(match (file, is_own) {
        (_, true) => "asked in the words of eval.template".to_owned(),
        (Some(file), false) => format!("asked in the protocol's own words, from {}", file.file),
        (None, false) if asks_as_here => "asked in our own words: CLEVRER's evaluator asks no language model".to_owned(),
        (None, false) => format!(
            "asked in our own words, in the protocol's order; eval.protocol_from = \"CLONE\" asks in its own, from {} of {}",
            source::files(protocol, config.benchmark).first().unwrap_or(&""),
            source::repository(protocol, config.benchmark)
        ),
    });
    remarks
}

fn authors_remarks(benchmark: Option<Benchmark>) -> Vec<String> {
    let mut remarks = vec![
        "105,369 pixels per frame: the authors' loader reads VIDEO_MAX_PIXELS = 200,704 as the budget of the whole clip",
        "the answer must be the solution to the letter: `C,A` for `A,C` is wrong",
        "greedy, where the authors sample at temperature 0.01 and top-p 0.001",
    ];
    match benchmark {
        Some(Benchmark::Mvbench) => {
            remarks.push("clips are shown whole, not only the part that a question is about");
        }
        Some(Benchmark::Tempcompass) => remarks.push(
            "5,536 questions, without the captions that the authors' file of 7,540 has among them (tempcompass_flat)",
        ),
        Some(Benchmark::TempcompassFlat) => remarks.push(
            "captions are asked as questions about which information is right; how the authors' own file puts them, and whether \
             yes or no are options there, was never seen: eval_tempcompass.json of their repository is read as it is",
        ),
        _ => {}
    }
    remarks.into_iter().map(str::to_owned).collect()
}

fn official_remarks(benchmark: Benchmark) -> Vec<String> {
    let own: &[&str] = match benchmark {
        Benchmark::Mvbench => &[
            "frames are resized as Qwen2.5-VL's, not cut to 224 x 224",
            "an empty answer is wrong; the benchmark's own rule takes it for right",
        ],
        Benchmark::Tempcompass => &[
            "captioning, the fourth task, is tempcompass_captioning",
            "the judge of what the rules leave open is asked in other words than the official ones",
        ],
        Benchmark::TempcompassFlat => &[
            "captions are asked as questions about which information is right; officially a caption is written and judged \
             (tempcompass_captioning)",
            "the judge of what the rules leave open is asked in other words than the official ones",
        ],
        Benchmark::TempcompassCaptioning => {
            &["the judge is asked in other words than the official ones"]
        }
        Benchmark::Mmvu => &[
            "sampled at temperature 1.0, as officially: another seed gives other answers",
            "letters that the strict rule reads are compared, the judge reads the rest; officially it reads all, in other words",
        ],
        Benchmark::MmvuOpen => &[
            "sampled at temperature 1.0, as officially: another seed gives other answers",
            "the right words are right, the judge reads all others; officially it reads all, in other words",
        ],
        Benchmark::Videomme => &[
            "answers without a letter are wrong; the benchmark's own evaluator leaves them out (exact_of_read)",
        ],
        Benchmark::VideoHolmes => {
            &["greedy, where the benchmark samples at temperature 0.1 and top-p 0.001"]
        }
        Benchmark::Clevrer => &[],
    };
    let mut remarks: Vec<String> = own.iter().map(|remark| (*remark).to_owned()).collect();
    if !matches!(benchmark, Benchmark::Mvbench | Benchmark::Clevrer) {
        remarks.push(
            "4 to 32 frames at 2 a second; the benchmark's own scripts leave frames to the model"
                .to_owned(),
        );
    }
    remarks
}
