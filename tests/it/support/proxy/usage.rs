//! What the process uses, as the kernel tells.

use std::path::Path;

use super::Proxy;

impl Proxy {
    /// The most memory that the process has had so far.
    pub fn peak_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.0.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells it");
        let kibibytes: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kibibytes << 10
    }

    /// How many bytes the process has in open files of a folder that have no name any more.
    pub fn spooled_bytes(&self, folder: &Path) -> u64 {
        let open = std::fs::read_dir(format!("/proc/{}/fd", self.child.0.id())).expect("a process");
        open.flatten()
            .map(|entry| entry.path())
            .filter(|path| std::fs::read_link(path).is_ok_and(|target| target.starts_with(folder)))
            .filter_map(|path| std::fs::metadata(path).ok())
            .map(|file| file.len())
            .sum()
    }
}
