//! What docs/OPERATING.md says of a worker's own times is what the program does.

use cappa_shared::timing::Span;
use clap::CommandFactory as _;

use crate::cli::Cli;
use crate::notice;

#[test]
fn a_workers_own_times_are_those_of_the_page() {
    let page = include_str!("../../docs/OPERATING.md");
    let (_, rows) = page.split_once("| time | flag | value |").expect("a table of the worker's own times");
    let rows = rows.lines().skip(1).take_while(|line| line.starts_with('|'));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect()).collect();
    let told = |name: &str| rows.iter().find(|row| row[0] == name).map(|row| row[2]);
    assert_eq!(told("notice"), Some(Span(notice::PERIOD).to_string().as_str()));

    let cli = Cli::command();
    let run = cli.find_subcommand("run").expect("a worker runs");
    let flagged: Vec<_> = rows.iter().filter(|row| row.len() > 2 && row[1].starts_with("`--")).collect();
    assert_eq!(flagged.len(), 2, "{flagged:?}");
    for row in flagged {
        let flag = row[1].trim_matches(['`', '-']);
        let argument = run.get_arguments().find(|argument| argument.get_long() == Some(flag)).expect(flag);
        let seconds = argument.get_default_values()[0].to_str().expect("a number");
        assert_eq!(format!("{seconds}s").parse::<Span>(), row[2].parse(), "{flag}");
    }
}
