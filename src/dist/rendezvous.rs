//! Where a process stands among the ranks, as whoever started it says in the environment.

use super::DistError;
use super::Result;

/// Ports of SLURM jobs, chosen by the job's number.
const SLURM_PORTS: std::ops::Range<u64> = 20_000..40_000;
/// Set for processes that [`super::ProcessGroup::launch`] starts.
pub(super) const LAUNCHED: &str = "VIDEOTHINKER_LAUNCH";

/// Where a process stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rendezvous {
    /// Its number, from 0.
    pub(crate) rank: usize,
    /// How many there are.
    pub(crate) size: usize,
    /// Its number on its machine.
    pub(crate) local_rank: usize,
    /// Where rank 0 is.
    pub(crate) host: String,
    /// Where rank 0 listens.
    pub(crate) port: u16,
    /// What all ranks of a run know and others do not.
    pub(crate) job: String,
    /// Whether [`super::ProcessGroup::launch`] started it.
    pub(crate) launched: bool,
}

impl Rendezvous {
    /// Of the only process.
    pub(super) fn alone() -> Self {
        Self {
            rank: 0,
            size: 1,
            local_rank: 0,
            host: "127.0.0.1".to_owned(),
            port: 0,
            job: String::new(),
            launched: false,
        }
    }

    /// HOST:PORT of rank 0.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// Reads the variables of torchrun (also those of [`super::ProcessGroup::launch`]) or of srun; `None` where neither
    /// has started several processes. What sbatch sets for its script alone does not count.
    ///
    /// # Errors
    /// [`DistError::Environment`] where one is missing or is no number.
    pub(crate) fn from_environment(read: impl Fn(&str) -> Option<String>) -> Result<Option<Self>> {
        let environment = Environment { read };
        if environment.several("WORLD_SIZE")? && environment.has("RANK") {
            return environment.torchrun().map(Some);
        }
        if environment.several("SLURM_STEP_NUM_TASKS")? {
            return environment.slurm().map(Some);
        }
        Ok(None)
    }
}

struct Environment<R> {
    read: R,
}

impl<R: Fn(&str) -> Option<String>> Environment<R> {
    fn torchrun(&self) -> Result<Rendezvous> {
        let port = self.number("MASTER_PORT")?;
        // torchrun's own store listens at the port it names.
        let taken = (self.read)("TORCHELASTIC_USE_AGENT_STORE").as_deref() == Some("True");
        self.rendezvous(
            ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
            self.text("MASTER_ADDR")?,
            port + u64::from(taken),
            self.text("TORCHELASTIC_RUN_ID")
                .or_else(|_| self.text(LAUNCHED))
                .unwrap_or_default(),
        )
    }

    fn slurm(&self) -> Result<Rendezvous> {
        let nodes = self.text("SLURM_STEP_NODELIST")?;
        let job = self.number("SLURM_JOB_ID")?;
        let step = self.text("SLURM_STEP_ID").unwrap_or_default();
        let spread = SLURM_PORTS.end - SLURM_PORTS.start;
        let port = if self.has("MASTER_PORT") {
            self.number("MASTER_PORT")?
        } else {
            SLURM_PORTS.start + job % spread
        };
        self.rendezvous(
            ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"],
            self.text("MASTER_ADDR")
                .unwrap_or_else(|_| first_host(&nodes)),
            port,
            format!("{job}.{step}"),
        )
    }

    fn rendezvous(
        &self,
        names: [&str; 3],
        host: String,
        port: u64,
        job: String,
    ) -> Result<Rendezvous> {
        let [rank, size, local_rank] = names;
        let rendezvous = Rendezvous {
            rank: self.number(rank)? as usize,
            size: self.number(size)? as usize,
            local_rank: self.number(local_rank)? as usize,
            host,
            port: u16::try_from(port)
                .map_err(|_| wrong("MASTER_PORT", format!(" = {port} is no port")))?,
            job,
            launched: self.has(LAUNCHED),
        };
        if rendezvous.rank >= rendezvous.size {
            let problem = format!(" = {} with {size} = {}", rendezvous.rank, rendezvous.size);
            return Err(wrong(rank, problem));
        }
        Ok(rendezvous)
    }

    fn has(&self, name: &str) -> bool {
        (self.read)(name).is_some()
    }

    fn several(&self, name: &str) -> Result<bool> {
        Ok(self.has(name) && self.number(name)? > 1)
    }

    fn text(&self, name: &str) -> Result<String> {
        (self.read)(name).ok_or_else(|| wrong(name, " is not set".to_owned()))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let text = self.text(name)?;
        text.trim()
            .parse()
            .map_err(|_| wrong(name, format!(" = \"{text}\" is no number")))
    }
}

fn wrong(variable: &str, problem: String) -> DistError {
    DistError::Environment {
        variable: variable.to_owned(),
        problem,
    }
}

/// The first of SLURM's `gpu[03-05,9],login1`: `gpu03`.
fn first_host(nodes: &str) -> String {
    let end = nodes.find([',', '[']).unwrap_or(nodes.len());
    let (name, rest) = nodes.split_at(end);
    let number = rest.strip_prefix('[').map_or("", |numbers| {
        let end = numbers.find(['-', ',', ']']).unwrap_or(numbers.len());
        &numbers[..end]
    });
    format!("{name}{number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn rendezvous(variables: &[(&str, &str)]) -> Result<Option<Rendezvous>> {
        let map: BTreeMap<&str, &str> = variables.iter().copied().collect();
        Rendezvous::from_environment(|name| map.get(name).map(ToString::to_string))
    }

    #[test]
    fn torchrun_is_understood() {
        let mut variables = vec![
            ("RANK", "3"),
            ("WORLD_SIZE", "4"),
            ("LOCAL_RANK", "1"),
            ("MASTER_ADDR", "10.0.0.7"),
            ("MASTER_PORT", "29500"),
        ];
        let found = rendezvous(&variables).unwrap().unwrap();
        assert_eq!((found.rank, found.size, found.local_rank), (3, 4, 1));
        assert_eq!(found.address(), "10.0.0.7:29500");
        variables.push(("TORCHELASTIC_USE_AGENT_STORE", "True"));
        variables.push(("TORCHELASTIC_RUN_ID", "none"));
        let found = rendezvous(&variables).unwrap().unwrap();
        assert_eq!((found.port, found.job.as_str()), (29501, "none"));
    }

    #[test]
    fn srun_is_understood_and_sbatch_is_not_mistaken_for_it() {
        let batch = [
            ("SLURM_JOB_ID", "1234567"),
            ("SLURM_NTASKS", "4"),
            ("SLURM_PROCID", "0"),
            ("SLURM_LOCALID", "0"),
        ];
        assert_eq!(rendezvous(&batch).unwrap(), None);
        let mut step = batch.to_vec();
        step.extend([
            ("SLURM_STEP_NUM_TASKS", "4"),
            ("SLURM_STEP_ID", "2"),
            ("SLURM_STEP_NODELIST", "gpu[03-04]"),
        ]);
        let found = rendezvous(&step).unwrap().unwrap();
        assert_eq!((found.rank, found.size), (0, 4));
        assert_eq!(found.address(), "gpu03:34567");
        assert_eq!(found.job, "1234567.2");
        step.push(("MASTER_PORT", "5000"));
        assert_eq!(rendezvous(&step).unwrap().unwrap().port, 5000);
    }

    #[test]
    fn one_process_needs_nothing() {
        assert_eq!(rendezvous(&[]).unwrap(), None);
        assert_eq!(
            rendezvous(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap(),
            None
        );
        assert_eq!(rendezvous(&[("WORLD_SIZE", "2")]).unwrap(), None);
    }

    #[test]
    fn what_is_missing_is_named() {
        let incomplete = [("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")];
        let message = rendezvous(&incomplete).unwrap_err().to_string();
        assert!(message.starts_with("MASTER_PORT is not set"), "{message}");
        let message = rendezvous(&[("WORLD_SIZE", "two"), ("RANK", "0")]).unwrap_err();
        assert!(
            message.to_string().contains("\"two\" is no number"),
            "{message}"
        );
        let beyond = [
            ("RANK", "2"),
            ("WORLD_SIZE", "2"),
            ("LOCAL_RANK", "0"),
            ("MASTER_ADDR", "a"),
            ("MASTER_PORT", "1"),
        ];
        let message = rendezvous(&beyond).unwrap_err().to_string();
        assert!(
            message.starts_with("RANK = 2 with WORLD_SIZE = 2"),
            "{message}"
        );
    }

    #[test]
    fn the_first_host_of_a_list() {
        for (nodes, host) in [
            ("node1", "node1"),
            ("node1,node2", "node1"),
            ("gpu[03-05,9],login1", "gpu03"),
            ("a-b[7]", "a-b7"),
        ] {
            assert_eq!(first_host(nodes), host);
        }
    }
}
