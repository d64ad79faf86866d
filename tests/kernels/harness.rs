//! The emulator itself.

use crate::emulator::on_cpu;
use crate::random;
use candle_core::{DType, Result};
use videothinker::model::ops::cuda::launch::{Grid, Launch, Module, applies};
use videothinker::model::ops::cuda::swiglu::swiglu;

static MODULE: Module = Module {
    name: "swiglu",
    ptx: "",
};

#[test]
fn kernels_run_on_the_cpu_only_when_emulated() -> Result<()> {
    let x = random(&[4], DType::F32)?;
    assert!(!applies(&x));
    assert!(swiglu(&x, &x).is_err());
    assert!(on_cpu(|| applies(&x) && swiglu(&x, &x).is_ok()));
    assert!(!applies(&x));
    Ok(())
}

#[test]
fn wrong_arguments_are_refused() -> Result<()> {
    let x = random(&[4, 6], DType::F32)?;
    let launch = |name: &str, count: usize| {
        let mut launch = Launch::new(&MODULE, name);
        for _ in 0..count {
            launch = launch.tensor(&x);
        }
        launch.size(x.elem_count())
    };
    on_cpu(|| {
        assert!(launch("swiglu_f32", 3).run(Grid::new(1, 32)).is_ok());
        assert!(launch("swiglu_f32", 2).run(Grid::new(1, 32)).is_err());
        assert!(launch("swiglu_f32", 3).run(Grid::new(1, 512)).is_err());
        assert!(launch("swiglu_f64", 3).run(Grid::new(1, 32)).is_err());
    });
    let columns = x.narrow(1, 0, 3)?;
    assert!(on_cpu(|| swiglu(&columns, &columns)).is_err());
    Ok(())
}

#[test]
#[should_panic(expected = "out of bounds: byte 96 from argument")]
fn a_write_beyond_the_end_is_seen() {
    let x = random(&[24], DType::F32).unwrap();
    on_cpu(|| {
        Launch::new(&MODULE, "swiglu_f32")
            .tensor(&x)
            .tensor(&x)
            .tensor(&x)
            .size(25)
            .run(Grid::new(1, 32))
            .unwrap();
    });
}
