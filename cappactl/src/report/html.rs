//! The page. Everything that came from somebody else is escaped.

use std::fmt::Write as _;

use cappa_shared::evaluation::{Accuracy, Captioned, Finding, Results};

use super::curves;
use super::{Measured, Report, measured, said};
use crate::commands::describe::facts;
use crate::units;
use crate::views::{Bucket, Point};

pub(crate) const STYLE: &str = include_str!("style.css");

/// Buckets of wall time that the style has a colour for.
const BUCKETS: [&str; 9] =
    ["productive", "queue", "startup", "data_wait", "checkpoint", "recovery", "evaluation", "paused", "other"];

/// The report as one HTML file.
pub(super) fn page(report: &Report) -> String {
    let name = escape(&report.job.name);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name} · CapPa</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
    );
    page += &header(report);
    page += &tiles(report);
    if let Some(results) = report.final_results() {
        page += &evaluations(results);
    }
    page += &plots(&report.curve);
    if let Some(results) = report.final_results() {
        page += &pictures(results);
    }
    page += &time(&report.job.time);
    page += &job_facts(report);
    page += &spec(report);
    page += &footer(report);
    page + "</body>\n</html>\n"
}

/// Text as HTML content or attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

fn header(report: &Report) -> String {
    let job = &report.job;
    let state = job.state.name();
    let lead = if job.message.is_empty() { &job.id } else { &format!("{} · {}", job.id, job.message) };
    format!(
        "<h1>{}<span class=\"chip {state}\">{state}</span></h1>\n<p class=\"lead\">{}</p>\n",
        escape(&job.name),
        escape(lead)
    )
}

fn tiles(report: &Report) -> String {
    let (job, curve) = (&report.job, &report.curve);
    let wall: f64 = job.time.iter().map(|bucket| bucket.seconds).sum();
    let speed = curves::images_per_second(curve);
    let examples: u64 = curve.iter().map(|point| point.examples).sum();
    let final_loss = curve.iter().rev().map(Point::loss_made).find(|loss| loss.is_finite());
    let tiles = [
        ("steps", units::grouped(job.step)),
        ("examples", units::grouped(examples)),
        ("final loss", final_loss.map_or_else(|| "–".into(), |loss| format!("{loss:.3}"))),
        ("images/s", if speed.is_finite() { format!("{speed:.0}") } else { "–".into() }),
        ("wall time", units::seconds(wall)),
        ("workers", curve.last().map_or(0, |point| point.world_size).to_string()),
    ];
    let mut html = String::from("<div class=\"tiles\">\n");
    for (label, value) in tiles {
        let _ = writeln!(html, "<div class=\"card tile\"><b>{value}</b><span>{label}</span></div>");
    }
    html + "</div>\n"
}

fn evaluations(results: &Results) -> String {
    let rows: String = results
        .evaluations
        .iter()
        .flat_map(|outcome| measured(outcome).into_iter().map(move |measured| row(&measured, outcome.samples)))
        .collect();
    let lines: String = results
        .evaluations
        .iter()
        .filter_map(said)
        .fold(String::new(), |lines, line| format!("{lines}<p class=\"lead\">{}</p>\n", escape(&line)));
    if rows.is_empty() {
        return lines;
    }
    format!(
        "<h2>Evaluation at step {}</h2>\n<div class=\"card\"><table>\n<tr><th>Evaluation</th><th>Task</th>\
         <th></th><th class=\"n\">Accuracy</th><th class=\"n\">Blind decoder</th><th class=\"n\">Chance</th>\
         <th class=\"n\">Labels</th><th class=\"n\">Samples</th></tr>\n{rows}</table></div>\n\
         {lines}<p class=\"lead\">The blind decoder is the same model with every image replaced by the mean image; the mark on \
         a bar is its accuracy.</p>\n",
        units::grouped(results.step)
    )
}

fn row(Measured { name, task, accuracy }: &Measured, samples: u64) -> String {
    let &Accuracy { accuracy, blind_accuracy, chance, labels } = accuracy;
    format!(
        "<tr><td>{}</td><td>{task}</td><td><div class=\"meter\"><i style=\"width:{:.1}%\"></i>\
         <u style=\"left:{:.1}%\"></u></div></td><td class=\"n strong\">{}</td><td class=\"n\">{}</td>\
         <td class=\"n\">{}</td><td class=\"n\">{labels}</td><td class=\"n\">{}</td></tr>\n",
        escape(name),
        100.0 * accuracy,
        100.0 * blind_accuracy.unwrap_or_default(),
        units::percent(accuracy),
        blind_accuracy.map_or_else(|| "–".to_owned(), units::percent),
        units::percent(chance),
        units::grouped(samples)
    )
}

fn plots(curve: &[Point]) -> String {
    if curve.is_empty() {
        return String::new();
    }
    let mut html = String::from("<h2>Training</h2>\n<div class=\"plots\">\n");
    for (title, svg) in curves::plots(curve) {
        let _ = writeln!(html, "<div class=\"card\"><h3>{title}</h3>{svg}</div>");
    }
    html + "</div>\n"
}

fn pictures(results: &Results) -> String {
    let mut html = String::new();
    for outcome in &results.evaluations {
        if let Finding::Caption { examples, .. } = &outcome.finding {
            let _ = writeln!(html, "<h2>Captions: {}</h2>", escape(&outcome.name));
            html += "<div class=\"pictures\">\n";
            html.extend(examples.iter().map(picture));
            html += "</div>\n";
        }
    }
    html
}

fn picture(example: &Captioned) -> String {
    // Tokenizers may fold case, so a word in capitals is read right in small letters.
    let same = example.caption.to_lowercase() == example.reference.to_lowercase();
    let class = if same { "right" } else { "wrong" };
    let said = |caption: &str| if caption.is_empty() { "–".to_owned() } else { escape(caption) };
    format!(
        "<figure class=\"card\"><img alt=\"{}\" src=\"data:image/png;base64,{}\"><dl><dt>model</dt>\
         <dd class=\"{class}\">{}</dd><dt>true</dt><dd>{}</dd><dt>blind</dt><dd class=\"blind\">{}</dd></dl></figure>\n",
        escape(&example.key),
        escape(&example.image_png),
        said(&example.caption),
        said(&example.reference),
        said(&example.blind_caption)
    )
}

fn time(buckets: &[Bucket]) -> String {
    let total: f64 = buckets.iter().map(|bucket| bucket.seconds).sum();
    if total <= 0.0 {
        return String::new();
    }
    let (mut bar, mut legend) = (String::new(), String::new());
    for bucket in buckets.iter().filter(|bucket| bucket.seconds > 0.0) {
        let class = BUCKETS.into_iter().find(|known| *known == bucket.bucket).unwrap_or("other");
        let share = bucket.seconds / total;
        let name = escape(&bucket.bucket.replace('_', " "));
        let (seconds, percent) = (units::seconds(bucket.seconds), units::percent(share));
        let _ = write!(bar, "<i class=\"{class}\" style=\"width:{:.3}%\" title=\"{name}\"></i>", 100.0 * share);
        let _ = writeln!(legend, "<div><i class=\"{class}\"></i>{name} <span>{seconds} · {percent}</span></div>");
    }
    format!(
        "<h2>Where the time went</h2>\n<div class=\"card\"><div class=\"stack\">{bar}</div>\n\
         <div class=\"legend\">\n{legend}</div></div>\n"
    )
}

fn job_facts(report: &Report) -> String {
    let versions = report.versions.iter().map(|(part, version)| (format!("Version of {part}"), version.clone()));
    let mut html = String::from("<h2>Job</h2>\n<div class=\"card\"><dl class=\"facts\">\n");
    for (label, value) in facts(&report.job).into_iter().chain(versions) {
        let _ = writeln!(html, "<dt>{}</dt><dd>{}</dd>", escape(&label), escape(&value));
    }
    html + "</dl></div>\n"
}

fn spec(report: &Report) -> String {
    let yaml = serde_yaml_ng::to_string(&report.job.spec).unwrap_or_default();
    format!("<h2>Spec as it ran</h2>\n<div class=\"card\"><pre>{}</pre></div>\n", escape(yaml.trim_end()))
}

fn footer(report: &Report) -> String {
    format!("<footer>Written {:.0}. The same as data: report.json.</footer>\n", report.generated)
}
