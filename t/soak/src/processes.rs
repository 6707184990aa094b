//! nginx's processes, as the kernel shows them.

use std::fs;

/// Where a process's memory is, in kB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Memory {
    /// Its own: heap and stack.
    pub own: u64,
    /// All that is resident, shared and files too.
    pub resident: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    pub pid: i32,
    pub memory: Memory,
    pub descriptors: usize,
    /// Mappings of memory that processes share.
    pub shared: usize,
}

/// The workers of a master that have not been told to quit, and how many others there are.
pub fn workers(master: i32) -> (Vec<i32>, usize) {
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
    let (mut workers, mut others) = (Vec::new(), 0);
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let title = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let title = String::from_utf8_lossy(&title);
        if title.contains("worker process") && !title.contains("shutting down") {
            workers.push(pid);
        } else {
            others += 1;
        }
    }
    (workers, others)
}

pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// `None` if it has ended.
pub fn look(pid: i32) -> Option<Process> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let number = |wanted: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(wanted))?;
        line.split_whitespace().next()?.parse().ok()
    };
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    Some(Process {
        pid,
        memory: Memory { own: number("RssAnon:")?, resident: number("VmRSS:")? },
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count(),
        shared: maps.lines().filter(|line| line.contains(" rw-s ")).count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_at_a_process() {
        let process = look(std::process::id() as i32).unwrap();
        assert!(process.memory.own > 0 && process.memory.resident > process.memory.own);
        assert!(process.descriptors > 2);
        assert!(is_alive(process.pid));
        assert_eq!(look(i32::MAX), None);
    }
}
