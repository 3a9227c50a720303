//! What goes to stdout: the same value as a table for people, JSON or YAML for programs, or names.

use std::io::{self, Write as _};

use clap::ValueEnum;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// How data is written to stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs; fields are only ever added.
    Json,
    /// The same as YAML.
    Yaml,
    /// Identities only, one a line.
    Name,
}

/// A value that every [`Format`] can show.
pub(crate) trait Present: Serialize {
    fn table(&self) -> String;
    /// The identities in it.
    fn names(&self) -> Vec<String>;
}

/// Writes a value to stdout.
pub(crate) fn print(format: Format, value: &impl Present) -> anyhow::Result<()> {
    let text = match format {
        Format::Table => value.table(),
        Format::Json => serde_json::to_string_pretty(value)?,
        Format::Yaml => serde_yaml_ng::to_string(value)?,
        Format::Name => value.names().join("\n"),
    };
    line(text.trim_end())?;
    Ok(())
}

/// Writes one line to stdout; unlike `println!`, it does not panic when the reader has gone.
pub(crate) fn line(text: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{text}")
}

/// Lays out rows under headers; columns whose header starts with `>` are aligned to the right.
pub(crate) fn columns(headers: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headers.iter().map(|header| header.trim_start_matches('>')));
    for row in rows {
        table.add_row(row);
    }
    for (index, header) in headers.iter().enumerate() {
        let column = table.column_mut(index).expect("the table has a column for every header");
        column.set_padding((0, 2));
        if header.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_numbers_end_together() {
        let rows = [("demo-a", "5"), ("longer-b", "1500")].map(|(a, b)| vec![a.to_owned(), b.to_owned()]);
        insta::assert_snapshot!(columns(&["JOB", ">STEP"], rows), @r"
        JOB       STEP
        demo-a       5
        longer-b  1500
        ");
    }
}
