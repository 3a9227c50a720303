//! A wall clock that jumps, for one process: a library that is loaded before all others.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// The clock of the processes that got its environment.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    offset: PathBuf,
}

impl Clock {
    /// Compiles the library into `folder`.
    pub(super) fn new(folder: &Path) -> Result<Self> {
        let (source, library, offset) = (folder.join("clock.c"), folder.join("clock.so"), folder.join("clock"));
        std::fs::write(&source, include_str!("clock.c"))?;
        let mut compile = Command::new("cc");
        compile.args(["-O1", "-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
        ensure!(compile.status().context("cc")?.success(), "the clock does not compile");
        let clock = Self { library, offset };
        std::fs::write(&clock.offset, 0i64.to_ne_bytes())?;
        Ok(clock)
    }

    /// What a process needs to live by it.
    pub(super) fn environment(&self) -> [(String, String); 2] {
        let text = |path: &Path| path.display().to_string();
        [("LD_PRELOAD".into(), text(&self.library)), ("CHAOS_CLOCK".into(), text(&self.offset))]
    }

    /// Moves the clock to so many seconds from the machine's.
    pub(super) fn set(&self, seconds: i64) -> Result<()> {
        use std::os::unix::fs::FileExt as _;
        // In place: the processes have this very file mapped.
        std::fs::File::options().write(true).open(&self.offset)?.write_all_at(&seconds.to_ne_bytes(), 0)?;
        Ok(())
    }
}
