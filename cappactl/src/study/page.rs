//! The study as a page: the tables of the paper's systems, the ablation, the scaling, and what became of the claims.

use std::fmt::Write as _;

use super::plan::{CAPPA, FRACTIONS, SYSTEMS, Setting, System};
use super::results::{Claim, Spread, Study, Trial, Verdict};
use crate::report::html::{STYLE, escape};
use crate::report::plot::{Line, Plot};
use crate::units;

/// The style's class of each system's line.
const COLOURS: [&str; 4] = ["first", "second", "third", "fourth"];
/// What the plots show.
const DRAWN: [&str; 3] = ["few-shot-objects, 10 a class", "attributes", "relations"];

/// The study as one HTML file.
pub(super) fn page(study: &Study) -> String {
    let settings = SYSTEMS.map(|system| study.full(system));
    let names = SYSTEMS.map(|system| system.to_string());
    let ablation = study.ablation();
    let shares = FRACTIONS.map(|share| format!("{:.0} %", 100.0 * share));
    let seeds = study.ran.iter().map(|ran| ran.seed + 1).max().unwrap_or(0);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>Study · CapPa</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>Study</h1>\n\
         <p class=\"lead\">{} examples for each network, synthetic scenes, {seeds} seeds; mean ± standard deviation over \
         the seeds. {}</p>\n",
        units::grouped(study.steps * study.batch_size),
        match study.missing {
            0 => String::new(),
            missing => format!("<b>{missing} runs are still to come.</b>"),
        }
    );
    page += "<h2>What the paper says, and what is seen here</h2>\n<p class=\"lead\">An ordering appears, or is contradicted, \
             where the mean difference of runs of the same seed is beyond twice its standard error, unless who is ahead is no \
             further than guessing or its blind decoder.</p>\n";
    page.extend(study.claims().iter().map(claim));
    page += "<h2>Systems</h2>\n";
    page += &table(study, &settings, &names);
    page += "<h2>Share of examples predicted in parallel</h2>\n";
    page += &table(study, &ablation, &shares);
    page += "<h2>Scaling</h2>\n";
    page += &scaling(study);
    let _ = writeln!(
        page,
        "<footer>Written {:.0} by cappactl {}. The same as data: study.json.</footer>",
        study.generated,
        escape(&study.program)
    );
    page + "</body>\n</html>\n"
}

fn claim(claim: &Claim) -> String {
    let rows: String = claim.trials.iter().map(trial).collect();
    format!(
        "<div class=\"card\"><h3>{}: {}</h3><table>\n<tr><th>Measure</th><th class=\"n\">Difference</th>\
         <th class=\"n\">Two standard errors</th><th>Verdict</th></tr>\n{rows}</table></div>\n",
        escape(claim.text),
        escape(&claim.summary())
    )
}

fn trial(Trial { measure, difference, margin, verdict }: &Trial) -> String {
    let verdict = match verdict {
        Verdict::Appears => "appears",
        Verdict::Undecided => "undecided",
        Verdict::Contradicted => "contradicted",
        Verdict::Unseen => "not seen in the picture",
    };
    let margin = margin.map_or_else(|| "–".into(), |margin| format!("{margin:.3}"));
    format!(
        "<tr><td>{}</td><td class=\"n\">{difference:+.3}</td><td class=\"n\">{margin}</td><td>{verdict}</td></tr>\n",
        escape(measure)
    )
}

/// Measures by settings.
fn table(study: &Study, settings: &[Setting], names: &[String]) -> String {
    let mut html = String::from("<div class=\"card\"><table>\n<tr><th>Measure</th>");
    html.extend(names.iter().map(|name| format!("<th class=\"n\">{}</th>", escape(name))));
    html += "<th class=\"n\">Blind</th><th class=\"n\">Chance</th></tr>\n";
    for measure in study.measures(settings) {
        let spreads: Vec<Option<Spread>> = settings.iter().map(|setting| study.spread(*setting, &measure)).collect();
        let share = |of: fn(&Spread) -> Option<f64>| {
            spreads.iter().flatten().find_map(of).map_or_else(|| "–".into(), units::percent)
        };
        let (blind, chance) = (share(|spread| spread.blind), share(|spread| spread.chance));
        let cells: String = spreads.iter().map(|spread| cell(&measure, spread.as_ref())).collect();
        let _ = writeln!(
            html,
            "<tr><td>{}</td>{cells}<td class=\"n\">{blind}</td><td class=\"n\">{chance}</td></tr>",
            escape(&measure)
        );
    }
    html + "</table></div>\n"
}

fn cell(measure: &str, spread: Option<&Spread>) -> String {
    let Some(Spread { mean, deviation, .. }) = spread else { return "<td class=\"n\">–</td>".into() };
    let is_share = !measure.starts_with("perplexity") && !measure.contains("CIDEr");
    let text = |value: f64| if is_share { format!("{:.1}", 100.0 * value) } else { format!("{value:.2}") };
    let deviation = deviation.map_or_else(String::new, |deviation| format!(" ± {}", text(deviation)));
    format!("<td class=\"n\"><b>{}</b>{deviation}</td>", text(*mean))
}

/// Plots over examples, and a table over sizes.
fn scaling(study: &Study) -> String {
    let mut html = String::from("<p class=\"lead\">");
    for (system, colour) in SYSTEMS.iter().zip(COLOURS) {
        let _ = write!(html, "<span class=\"key {colour}\"></span>{system} ");
    }
    html += "</p>\n<div class=\"plots\">\n";
    for measure in DRAWN {
        let lines =
            SYSTEMS.iter().zip(COLOURS).map(|(system, class)| Line { class, points: points(study, *system, measure) });
        let plot = Plot { title: measure, x_label: "examples seen", lines: lines.collect(), from_zero: false };
        let _ = writeln!(html, "<div class=\"card\"><h3>{}</h3>{}</div>", escape(measure), plot.svg());
    }
    html += "</div>\n<h2>Size of the network</h2>\n";
    let [_, smaller] = study.scale.size().models;
    let small = SYSTEMS.map(|system| Setting { model: smaller, ..study.full(system) });
    let names = SYSTEMS.map(|system| format!("{system}, {}", smaller.name()));
    html + &table(study, &small, &names)
}

fn points(study: &Study, system: System, measure: &str) -> Vec<(f64, f64)> {
    let full = study.full(system);
    let mut steps: Vec<u64> = study
        .ran
        .iter()
        .map(|ran| ran.setting)
        .filter(|setting| (setting.system, setting.model) == (full.system, full.model))
        .map(|setting| setting.steps)
        .collect();
    steps.sort_unstable();
    steps.dedup();
    let point = |steps| {
        let spread = study.spread(Setting { steps, ..full }, measure)?;
        Some(((steps * study.batch_size) as f64, spread.mean))
    };
    steps.into_iter().filter_map(point).collect()
}

/// The same for a terminal: the systems' means.
pub(super) fn summary(study: &Study) -> String {
    let settings = SYSTEMS.map(|system| study.full(system));
    let rows = study.measures(&settings).into_iter().map(|measure| {
        let means = settings.map(|setting| {
            let spread = study.spread(setting, &measure);
            spread.map_or_else(|| "–".into(), |spread| format!("{:.3}", spread.mean))
        });
        std::iter::once(measure).chain(means).collect()
    });
    let columns = ["MEASURE", ">CAP", ">CAPPA", ">CLIP", ">SIGLIP"];
    debug_assert_eq!(SYSTEMS[1], CAPPA);
    let mut text = format!("\n{}\n", crate::output::columns(&columns, rows));
    for claim in study.claims() {
        text += &format!("\n{}: {}", claim.text, claim.summary());
    }
    text + "\n"
}
