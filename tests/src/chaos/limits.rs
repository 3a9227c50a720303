//! Disks that are full and memory that runs out, for one process. Needs root, and a mount namespace of this process's own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// A small file system of its own on a folder.
pub(super) fn mount_small_disk(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    mount(&["-t", "tmpfs", "-o", "size=4m", "none"], folder)
}

/// Takes all space that is left on the file system of `folder`; gives the file that holds it.
pub(super) fn fill_disk(folder: &Path) -> Result<PathBuf> {
    let file = folder.join("filler");
    let mut dd = Command::new("dd");
    dd.arg("if=/dev/zero").arg(format!("of={}", file.display())).args(["bs=64k", "status=none"]);
    let output = dd.output()?;
    ensure!(!output.status.success(), "the disk did not get full");
    Ok(file)
}

/// A control group whose members may take hardly any more memory than they have.
pub(super) struct Starved {
    group: PathBuf,
}

impl Starved {
    /// Makes it; `folder` is where the control groups are mounted.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let root = folder.join("cgroup");
        std::fs::create_dir_all(&root)?;
        let is_v2 = mount(&["-t", "cgroup", "-o", "memory", "none"], &root).is_err();
        if is_v2 {
            mount(&["-t", "cgroup2", "none"], &root)?;
        }
        let group = root.join(format!("cappa-chaos-{}", std::process::id()));
        std::fs::create_dir_all(&group)?;
        // What a process had before it came in is not counted.
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        std::fs::write(group.join(limit), "1048576").context("the memory controller")?;
        Ok(Self { group })
    }

    /// Puts a process into it: the kernel kills it at one of its next allocations.
    pub(super) fn admit(&self, process: u32) -> Result<()> {
        std::fs::write(self.group.join("cgroup.procs"), process.to_string())?;
        Ok(())
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        // The members are moved out first, if some live.
        let root = self.group.parent().unwrap_or(Path::new("/")).join("cgroup.procs");
        let members = std::fs::read_to_string(self.group.join("cgroup.procs")).unwrap_or_default();
        members.lines().for_each(|member| _ = std::fs::write(&root, member));
        // An empty group that is left is harmless.
        let _ = std::fs::remove_dir(&self.group);
    }
}

fn mount(how: &[&str], folder: &Path) -> Result<()> {
    let output = Command::new("mount").args(how).arg(folder).output()?;
    ensure!(output.status.success(), "mount {}: {}", how.join(" "), String::from_utf8_lossy(&output.stderr));
    Ok(())
}
