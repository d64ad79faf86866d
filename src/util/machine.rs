//! What this machine has: memory and its limits, room on disks, cards.

use std::path::Path;
use std::process::Command;

/// Memory of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    /// All of it, in bytes.
    pub(crate) total: u64,
    /// What programs can still take.
    pub(crate) available: u64,
}

/// What the system says of its memory; `None` where it says nothing.
pub(crate) fn memory() -> Option<Memory> {
    memory_in(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn memory_in(text: &str) -> Option<Memory> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let number = line.trim_start_matches(':').split_whitespace().next()?;
        number.parse().ok()
    };
    Some(Memory {
        total: kib("MemTotal")? << 10,
        available: kib("MemAvailable")? << 10,
    })
}

/// The most memory that this process's control groups allow it, in bytes: what a container or a cluster's job has.
pub(crate) fn memory_limit() -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    limit_of(&groups, Path::new("/sys/fs/cgroup"))
}

/// The smallest limit of a group or of one around it; version 1 and version 2 keep them in different files.
fn limit_of(groups: &str, root: &Path) -> Option<u64> {
    const NO_LIMIT: u64 = 1 << 60;
    let read = |file: &Path| -> Option<u64> {
        let text = std::fs::read_to_string(file).ok()?;
        text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT)
    };
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else {
            continue;
        };
        let (root, file) = if controllers.is_empty() {
            (root.to_path_buf(), "memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        let group = Path::new(group.trim_start_matches('/'));
        limits.extend(
            group
                .ancestors()
                .filter_map(|group| read(&root.join(group).join(file))),
        );
    }
    limits.into_iter().min()
}

/// Bytes that can still be written at `path`, which need not be there yet.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|path| path.exists())?;
    let name = std::ffi::CString::new(there.as_os_str().as_bytes()).ok()?;
    let mut room = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    #[expect(
        unsafe_code,
        reason = "the standard library does not say how much room there is"
    )]
    // SAFETY: the name ends with a zero, and the system writes one whole `statvfs` where it succeeds; zeros are one too.
    let room = unsafe {
        if libc::statvfs(name.as_ptr(), room.as_mut_ptr()) != 0 {
            return None;
        }
        room.assume_init()
    };
    Some(room.f_bavail.saturating_mul(room.f_frsize))
}

/// A GPU as the driver's own tool lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Card {
    pub(crate) name: String,
    /// Bytes of its memory.
    pub(crate) memory: u64,
    /// Bytes of it that nobody has.
    pub(crate) free: u64,
}

/// The GPUs that `nvidia-smi` lists; none where it is not there or fails.
pub(crate) fn cards() -> Vec<Card> {
    let output = Command::new("nvidia-smi")
        .args([
            "--query-gpu=name,memory.total,memory.free",
            "--format=csv,noheader,nounits",
        ])
        .output();
    match output {
        Ok(output) if output.status.success() => cards_in(&String::from_utf8_lossy(&output.stdout)),
        _ => Vec::new(),
    }
}

fn cards_in(text: &str) -> Vec<Card> {
    let card = |line: &str| -> Option<Card> {
        let mut fields = line.rsplitn(3, ',').map(str::trim);
        let free = fields.next()?.parse::<u64>().ok()?;
        let memory = fields.next()?.parse::<u64>().ok()?;
        Some(Card {
            name: fields.next()?.to_owned(),
            memory: memory << 20,
            free: free << 20,
        })
    };
    text.lines().filter_map(card).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_kibibytes() {
        let text = "MemTotal:       24675536 kB\nMemFree:  100 kB\nMemAvailable:   20000000 kB\n";
        let memory = memory_in(text).unwrap();
        assert_eq!(
            (memory.total, memory.available),
            (24_675_536 << 10, 20_000_000 << 10)
        );
        assert_eq!(memory_in("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn the_tightest_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let file = root.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("job/step/memory.max", "max\n");
        write("job/memory.max", "8589934592\n");
        assert_eq!(limit_of("0::/job/step\n", root.path()), Some(8 << 30));
        assert_eq!(limit_of("0::/elsewhere\n", root.path()), None);
        write("memory/slurm/memory.limit_in_bytes", "4294967296\n");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let version_1 = "5:cpu,cpuacct:/slurm\n4:memory:/slurm\n";
        assert_eq!(limit_of(version_1, root.path()), Some(4 << 30));
    }

    #[test]
    fn there_is_room_where_a_folder_would_be_made() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(&folder.path().join("not/yet")).unwrap() > 0);
    }

    #[test]
    fn cards_are_lines() {
        let cards = cards_in("NVIDIA H200, 143771, 143000\nOdd, named, 10, 5\nno card\n");
        assert_eq!(cards.len(), 2);
        assert_eq!(
            (cards[0].memory, &*cards[1].name),
            (143_771 << 20, "Odd, named")
        );
    }
}
