//! Ranks on one machine: this process and copies of it.

use super::DistError;
use super::Result;
use super::link::Link;
use super::rendezvous::LAUNCHED;
use super::rendezvous::Rendezvous;
use std::net::TcpListener;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

/// How long ranks may take to end when the run has.
const FAREWELL: Duration = Duration::from_secs(30);

/// The processes started here, by their ranks from 1 on. None outlives this value.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<Child>);

/// Starts `size - 1` copies of this process and waits until they are connected.
pub(super) fn launch(size: usize, patience: Duration) -> Result<(Rendezvous, Link, Children)> {
    let mut rendezvous = Rendezvous {
        size,
        job: format!("{}-{}", std::process::id(), nanoseconds()),
        ..Rendezvous::alone()
    };
    let failed = |source| DistError::Address {
        rank: 0,
        address: rendezvous.address(),
        source,
    };
    let listener = TcpListener::bind((rendezvous.host.as_str(), 0)).map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    rendezvous.port = port;
    let mut children = Children::default();
    for rank in 1..size {
        let start = || -> std::io::Result<Child> {
            Command::new(std::env::current_exe()?)
                .args(std::env::args_os().skip(1))
                .envs(variables(&rendezvous, rank))
                .env_remove("TORCHELASTIC_USE_AGENT_STORE")
                .env_remove("TORCHELASTIC_RUN_ID")
                .stdin(Stdio::null())
                .spawn()
        };
        let child = start().map_err(|source| DistError::Launch { rank, source })?;
        children.0.push(child);
    }
    match Link::gather(&rendezvous, &listener, patience, || children.all_alive()) {
        Ok(link) => Ok((rendezvous, link, children)),
        Err(error) => {
            children.end();
            Err(error)
        }
    }
}

/// What [`Rendezvous::from_environment`] reads.
fn variables(rendezvous: &Rendezvous, rank: usize) -> [(&'static str, String); 6] {
    [
        ("RANK", rank.to_string()),
        ("LOCAL_RANK", rank.to_string()),
        ("WORLD_SIZE", rendezvous.size.to_string()),
        ("MASTER_ADDR", rendezvous.host.clone()),
        ("MASTER_PORT", rendezvous.port.to_string()),
        (LAUNCHED, rendezvous.job.clone()),
    ]
}

fn nanoseconds() -> u128 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |time| time.as_nanos())
}

impl Children {
    fn all_alive(&mut self) -> Result<()> {
        for (index, child) in self.0.iter_mut().enumerate() {
            if let Ok(Some(status)) = child.try_wait() {
                return Err(DistError::Left {
                    rank: index + 1,
                    reason: format!("it ended before the run began ({status}), as it says above"),
                });
            }
        }
        Ok(())
    }

    /// Those that are still there have nobody to wait for.
    fn end(&mut self) {
        for child in &mut self.0 {
            // It fails only where the process has ended.
            let _ = child.kill();
        }
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        let start = Instant::now();
        for child in &mut self.0 {
            while let Ok(None) = child.try_wait() {
                if start.elapsed() > FAREWELL {
                    // These fail only where the process has ended.
                    let _ = child.kill();
                    let _ = child.wait();
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}
