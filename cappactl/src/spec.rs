//! Job specs as files: read, with values of the command line put over theirs, checked as a whole.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use anyhow::Context as _;
use cappa_shared::code::Code;
use cappa_shared::spec::{JobSpec, Places, Position, SpecBase};
use clap::Args;

use crate::exit::Failure;

/// Where a spec comes from.
#[derive(Debug, Clone, Args)]
pub(crate) struct Source {
    /// The job spec, YAML or JSON; - reads it from stdin.
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Put a value over the file's, e.g. --set data.seed=7; repeatable.
    #[arg(long = "set", value_name = "PATH=VALUE", value_parser = parse_override)]
    overrides: Vec<(String, String)>,
}

fn parse_override(text: &str) -> Result<(String, String), String> {
    let (path, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not PATH=VALUE"))?;
    Ok((path.to_owned(), value.to_owned()))
}

impl Source {
    /// A file as it is.
    pub(crate) fn of_file(path: &Path) -> Self {
        Self { file: path.display().to_string(), overrides: Vec::new() }
    }

    /// As [`Source::load`], with what says where its values stand.
    pub(crate) fn load_placed(&self) -> anyhow::Result<(JobSpec, Origin)> {
        let (name, text, folder) = self.read()?;
        let spec = self.parse(&name, &text, &SpecBase::folder(folder))?;
        Ok((spec, Origin { name, places: Places::of(&text, &self.overrides) }))
    }

    /// Reads and checks the spec. Relative paths in it are relative to its file, or to the working folder when it
    /// comes from stdin.
    ///
    /// # Errors
    /// When the file cannot be read; all mistakes of the spec at once, each with its place.
    pub(crate) fn load(&self) -> anyhow::Result<JobSpec> {
        self.load_placed().map(|(spec, _)| spec)
    }

    /// The document's name, its text and its folder.
    fn read(&self) -> anyhow::Result<(String, String, PathBuf)> {
        let here = env::current_dir().context("the working folder is gone")?;
        if self.file == "-" {
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the spec from stdin")?;
            return Ok(("stdin".to_owned(), text, here));
        }
        let text = fs::read_to_string(&self.file).with_context(|| format!("cannot read {}", self.file))?;
        let folder = Path::new(&self.file).parent().unwrap_or(Path::new(""));
        Ok((self.file.clone(), text, here.join(folder)))
    }

    fn parse(&self, name: &str, text: &str, base: &SpecBase) -> Result<JobSpec, Failure> {
        JobSpec::parse_with(text, &self.overrides, base).map_err(|mistakes| {
            let lines: Vec<String> = mistakes.errors().iter().map(|mistake| format!("{name}:{mistake}")).collect();
            let plural = if lines.len() == 1 { "" } else { "s" };
            Failure::new(Code::InvalidSpec.exit(), format!("the spec has {} mistake{plural}", lines.len()))
                .code(Code::InvalidSpec.as_str())
                .details(lines)
        })
    }
}

/// The document that a spec came from: the coordinator does not see it.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    name: String,
    places: Places,
}

impl Origin {
    /// A mistake that the coordinator found, as one that is found here reads.
    pub(crate) fn line(&self, field: &str, description: &str) -> String {
        let name = &self.name;
        match self.places.find(field) {
            Some(Position { line, column }) => format!("{name}:{line}:{column}: {field}: {description}"),
            None => format!("{name}: {field}: {description}"),
        }
    }
}
