mod classify;
mod evaluation;
mod properties;

use super::*;

/// The shortest document there is.
const MINIMAL: &str = "\
apiVersion: cappa.dev/v1
name: demo
data: {train: corpus/train.json, tokenizer: corpus/tokenizer.json}
duration: {steps: 100}
";

/// `lines`, and what the shortest document needs beside them.
fn document(lines: &str) -> String {
    let is_new = |line: &&str| !lines.lines().any(|other| other.split(':').next() == line.split(':').next());
    let rest: Vec<&str> = MINIMAL.lines().filter(is_new).collect();
    format!("{lines}\n{}\n", rest.join("\n"))
}

fn parse(text: &str) -> Result<JobSpec, SpecErrors> {
    JobSpec::parse(text, &SpecBase::folder("/home/me/jobs"))
}

fn spec(lines: &str) -> JobSpec {
    parse(&document(lines)).unwrap_or_else(|errors| panic!("{lines}: {errors}"))
}

/// `lines` in an otherwise good document are refused with just these mistakes, one a line.
#[track_caller]
fn check(lines: &str, expected: &[&str]) {
    let errors = parse(&document(lines)).expect_err(lines);
    let found: Vec<String> = errors.errors().iter().map(ToString::to_string).collect();
    assert_eq!(found, expected, "{lines}");
}

#[test]
fn defaults_are_the_papers() {
    let spec = spec("duration: {examples: 9000000000}");
    assert_eq!(spec.objective, Objective::Cappa { parallel_fraction: 0.75, masking_ratio: 1.0, label_smoothing: 0.0 });
    assert_eq!((spec.model.preset.as_str(), spec.model.width, spec.model.vocabulary), ("B/16", 768, 32_000));
    assert_eq!((spec.data.image_size, spec.data.text_length.longest(), spec.data.lanes), (224, 64, 64));
    assert_eq!((spec.batch_size, spec.optimizer.name), (8192, OptimizerName::Adafactor));
    let cosine = Schedule {
        name: ScheduleName::Cosine,
        warmup_steps: Some(10_000),
        cooldown_steps: 0,
        end: 0.0,
        timescale: None,
    };
    assert_eq!(spec.schedule, cosine);
    assert_eq!(spec.total_steps(1), 1_098_633);
}

#[test]
fn a_preset_brings_the_input_it_is_made_for() {
    let spec = spec("model: {preset: tiny, layers: 6}\nbatch_size: 32");
    assert_eq!((spec.model.layers, spec.model.width, spec.model.mlp), (6, 128, 512));
    assert_eq!((spec.data.image_size, spec.data.text_length.longest(), spec.model.vocabulary), (64, 24, 512));
    assert_eq!(spec.data.lanes, 32);
    assert_eq!(spec.schedule.warmup_steps, Some(10));
}

#[test]
fn short_forms_say_the_same_as_long_ones() {
    let short = spec("objective: cap\nmodel: tiny\noptimizer: adamw\nschedule: constant\nworkers: 2");
    let long = spec(
        "objective: {type: cap}\nmodel: {preset: tiny}\noptimizer: {name: adamw}\nschedule: {name: constant}\n\
         workers: {min: 2, max: 2}",
    );
    assert_eq!(short, long);
    assert_eq!(short.digest(), long.digest());
}

#[test]
fn json_is_read_too() {
    let json = "{\n\t\"apiVersion\": \"cappa.dev/v1\", \"name\": \"demo\",\n\t\"duration\": {\"steps\": 100},\n\t\"data\": \
                {\"train\": \"corpus\\/train.json\", \"tokenizer\": \"corpus/tokenizer.json\"}\n}";
    assert_eq!(parse(json).unwrap(), spec(""));
}

#[test]
fn paths_become_urls_relative_to_the_documents_folder() {
    let lines = "data: {train: ../data/my set/m.json, tokenizer: s3://bucket/t.json}";
    let data = spec(lines).data;
    assert_eq!(
        (data.train.only().unwrap().source.as_str(), data.tokenizer.as_str()),
        ("file:///home/me/data/my%20set/m.json", "s3://bucket/t.json")
    );
    let errors = JobSpec::parse(&document(""), &SpecBase::none()).unwrap_err();
    assert!(errors.to_string().contains("the path is relative; give an absolute path or a URL"), "{errors}");
    check(
        "data: {train: ftp://host/x, tokenizer: s3://bucket/../t.json}",
        &[
            "1:15: data.train: `ftp://host/x` can't be used as a storage URL: the scheme `ftp` is not supported; use one of \
             file, s3, gs, az, http, https",
            "1:40: data.tokenizer: `s3://bucket/t.json` can't be used as a storage URL: `..` is not allowed; write the path \
             that is meant",
        ],
    );
}

#[test]
fn what_is_no_document_is_refused_where_it_ends() {
    let refused = |text: &str| parse(text).unwrap_err().errors()[0].to_string();
    assert_eq!(
        refused(""),
        "1:1: document: a job spec is a mapping of keys to values; start with `apiVersion: cappa.dev/v1`"
    );
    assert_eq!(
        refused("- a"),
        "1:1: document: a job spec is a mapping of keys to values; start with `apiVersion: cappa.dev/v1`"
    );
    assert_eq!(refused("a: &x 1\nb: *x"), "1:4: a: anchors (`&name`) are not read; take it out");
    assert_eq!(refused("a: !!str 1"), "1:4: a: tags (`!name`) are not read; take it out");
    assert_eq!(refused("a: 1\n---\nb: 2"), "2:1: document: a second document begins here; submit one job at a time");
    assert_eq!(refused("{[a]: 1}"), "1:2: document: a key must be text");
    assert!(refused(&"[".repeat(100)).contains("is nested more than 32 deep"));
    assert!(refused(&format!("a: {}", "x".repeat(300_000))).contains("at most 262144 are read"));
    let keys: String = (0..300).map(|n| format!("k{n}: 1\n")).collect();
    assert!(refused(&keys).contains("has more than 256 keys"));
    assert!(parse("a: [1, 2").is_err());
}

#[test]
fn mistakes_of_shape_are_named() {
    check("nmae: x", &["1:1: nmae: unknown key; did you mean `name`?"]);
    check("colour: red", &["1:1: colour: unknown key"]);
    check("name: a\nname: b", &["2:1: name: is given twice; keep one"]);
    check("name: 7", &["1:7: name: expected text, found the number 7; put it in quotes if it is meant as text"]);
    check("batch_size: many", &["1:13: batch_size: expected a whole number, found the text `many`"]);
    check("batch_size: 64.5", &["1:13: batch_size: expected a whole number, found the number 64.5"]);
    check("batch_size: -64", &["1:13: batch_size: -64 is outside 0 to 4294967295"]);
    check("optimizer: {learning_rate: .nan}", &["1:28: optimizer.learning_rate: NaN is not a finite number"]);
    check("workers: [1]", &["1:10: workers: expected a whole number or a mapping, found a list"]);
    check(
        "objective: clap",
        &["1:12: objective: `clap` is not one of `cap`, `cappa`, `clip`, `siglip`, `classify`; did you mean `cap`?"],
    );
    check(
        "model: B16",
        &["1:8: model: `B16` is not one of `tiny`, `S/16`, `M/16`, `B/16`, `L/14`; did you mean `B/16`?"],
    );
    check("apiVersion: v1", &["1:13: apiVersion: `v1` is not one of `cappa.dev/v1`"]);
    check("name:", &["1:1: name: is required"]);
    check("data: {train: m.json}", &["1:7: data.tokenizer: is required"]);
    check("evaluate: {}", &["1:11: evaluate: expected a list, found a mapping"]);
}

#[test]
fn mistakes_of_meaning_are_named() {
    check(
        "name: My_Job",
        &["1:7: name: `My_Job` is not a name; use 1 to 50 lower-case letters, digits and inner hyphens"],
    );
    check(
        "kind: export",
        &["1:7: kind: `export` is not supported by this version; `cappactl export` writes an encoder"],
    );
    check(
        "objective: classify",
        &["4:7: data.label: is required for `classify`: the field of a sample's .json with its class, and all classes"],
    );
    check(
        "objective: {type: cap, label_smoothing: 1}",
        &["1:41: objective.label_smoothing: 1 is not from 0 to below 1"],
    );
    check(
        "objective: {type: clip, label_smoothing: 0.1}",
        &["1:42: objective.label_smoothing: is for `cap`, `cappa` and `classify` only; `clip` predicts no labels"],
    );
    check(
        "objective: {type: siglip, parallel_fraction: 0.5}",
        &["1:46: objective.parallel_fraction: is for `cappa` only; `siglip` predicts nothing in parallel"],
    );
    check(
        "objective: clip\nevaluate: [{name: a, data: d.json, task: caption}]",
        &[
            "2:42: evaluate[0].task: `caption` needs a decoder, and `clip` trains none; use `classify`, `choose`, `fewshot` or `retrieval`",
        ],
    );
    check(
        "objective: clip\ndata: {train: a.json, tokenizer: t.json, text_length: [8, 16]}",
        &[
            "2:55: data.text_length: give one length: the text tower of `clip` sees padding, so texts of a batch have one length",
        ],
    );
    check(
        "objective: {type: cappa, parallel_fraction: 1.5}",
        &["1:45: objective.parallel_fraction: 1.5 is not within 0 to 1"],
    );
    check(
        "objective: {type: cappa, masking_ratio: 0}",
        &["1:41: objective.masking_ratio: 0 is not above 0 and at most 1"],
    );
    check(
        "objective: {type: clip, masking_ratio: 0.5}",
        &["1:40: objective.masking_ratio: is for `cappa` only; `clip` predicts nothing in parallel"],
    );
    check(
        "objective: {type: cap, parallel_fraction: 0.5}",
        &["1:43: objective.parallel_fraction: is for `cappa` only; `cap` predicts nothing in parallel"],
    );
    check(
        "objective: clip\nfreeze: [encoder, decoder, encoder]",
        &[
            "2:9: freeze: leaves nothing to train",
            "2:19: freeze[1]: a network of `clip` has no part `decoder`",
            "2:28: freeze[2]: `encoder` is given twice",
        ],
    );
    check(
        "objective: {type: cap, text_pooling: last}",
        &["1:38: objective.text_pooling: is for `clip` and `siglip` only; `cap` trains no text tower"],
    );
    check(
        "init: {from: s3://b/c/MANIFEST.json, parts: [text]}",
        &["1:46: init.parts[0]: a network of `cappa` has no part `text`"],
    );
    check(
        "init: s3://b/job/checkpoints",
        &[
            "1:7: init: is not the MANIFEST.json of a checkpoint; `cappactl checkpoints ls JOB` shows a job's checkpoints",
        ],
    );
    check("init: {parts: [encoder]}", &["1:7: init.from: is required"]);
    check(
        "batch_size: 100",
        &["1:13: batch_size: 100 is not a multiple of data.lanes, 64 (the default); use 64 or 128, or 50 lanes"],
    );
    check("batch_size: 0", &["1:13: batch_size: 0 is below 1, the least"]);
    check("workers: {min: 3, max: 2}", &["1:16: workers.min: 3 is more than workers.max, 2"]);
    check("workers: 65", &["1:10: workers: 65 is more than data.lanes, 64, and a worker owns at least one lane"]);
    check("workers: 0", &["1:10: workers: 0 is below 1, the least"]);
    check("model: {heads: 7}", &["1:16: model.heads: 7 does not divide the width, 768"]);
    check(
        "model: {width: 30, heads: 3, position: sincos2d}",
        &["1:16: model.width: 30 is not a multiple of 4, as `sincos2d` needs"],
    );
    check("model: {patch: 15}", &["4:7: data.image_size: 224 is not a multiple of the patch, 15; use 210 or 225"]);
    check("optimizer: {learning_rate: 0}", &["1:28: optimizer.learning_rate: 0 is not above 0"]);
    check(
        "optimizer: {beta1: 1, clip_norm: 0, weight_decay: -1}",
        &[
            "1:20: optimizer.beta1: 1 is not from 0 to below 1",
            "1:34: optimizer.clip_norm: 0 is not above 0",
            "1:51: optimizer.weight_decay: -1 is below 0",
        ],
    );
    check(
        "schedule: {name: rsqrt, end: 0.1, cooldown_steps: 91}",
        &[
            "1:30: schedule.end: is for the schedule `linear` only",
            "1:51: schedule.cooldown_steps: 91 is more than the 90 steps of the job after its warm-up",
        ],
    );
    check("schedule: {name: linear, end: 2}", &["1:31: schedule.end: 2 is not within 0 to 1"]);
    check("schedule: {warmup_steps: 101}", &["1:26: schedule.warmup_steps: 101 is more than the job's 100 steps"]);
    check("duration: {steps: 0}", &["1:19: duration.steps: 0 is below 1, the least"]);
    check("duration: {steps: 1, epochs: 1}", &["1:11: duration: needs exactly one of steps, epochs and examples"]);
    check("duration: {}", &["1:11: duration: needs exactly one of steps, epochs and examples"]);
    check(
        "checkpoint: {every: 0, keep: 0}",
        &["1:21: checkpoint.every: 0 is below 1, the least", "1:30: checkpoint.keep: 0 is below 1, the least"],
    );
}

#[test]
fn data_may_come_from_manifests_patterns_and_mixtures() {
    let data = |lines: &str| spec(&format!("data: {{tokenizer: t.json, {lines}}}")).data;
    assert_eq!(
        data("train: 'shards/train-{000..127}.tar'").train.only().unwrap().source,
        "/home/me/jobs/shards/train-{000..127}.tar"
    );
    assert_eq!(data("train: 's3://b/train-??.tar'").train.only().unwrap().source, "s3://b/train-??.tar");
    let mixed = data("train: [{source: a.json, weight: 2}, 's3://b/*.tar']").train;
    let sources: Vec<_> = mixed.iter().map(|s| (s.source.as_str(), s.weight, s.is_manifest())).collect();
    assert_eq!(sources, [("file:///home/me/jobs/a.json", 2.0, true), ("s3://b/*.tar", 1.0, false)]);
    assert!(mixed.need_index() && mixed.only().is_none());
    assert_eq!(data("train: [a.json]"), data("train: a.json"), "one source alone is no mixture");
}

#[test]
fn captions_and_lengths_have_short_forms() {
    let data = |lines: &str| spec(&format!("data: {{train: a.json, tokenizer: t.model, {lines}}}")).data;
    assert_eq!(data("captions: txt").captions, data("captions: {from: txt, choose: one}").captions);
    let captions = data("captions: {from: json, field: alt, choose: turn}, decode: fast");
    assert_eq!(captions.captions.source, CaptionSource::Json { field: "alt".into() });
    assert_eq!((captions.captions.choose, captions.decode), (CaptionChoice::Turn, Decode::Fast));
    assert!(captions.augment.is_off());
    let augmented = data("augment: {crop: {}, flip: 0.5, jitter: {hue: 0.1}}").augment;
    let jitter = Jitter { hue: 0.1, ..Jitter::default() };
    assert_eq!(augmented, Augment { crop: Some(Crop::default()), flip: 0.5, jitter: Some(jitter) });
    assert_eq!(data("text_length: [64, 16, 32]").text_length.all(), [16, 32, 64]);
    assert_eq!(data("text_length: [24]").text_length, data("text_length: 24").text_length);
}

#[test]
fn mistakes_of_data_are_named() {
    check("data: {train: [], tokenizer: t.json}", &["1:15: data.train: 0 is below 1, the least"]);
    check(
        "data: {train: [{source: a.json, weight: 0}, {weight: 1}], tokenizer: t.json}",
        &["1:41: data.train[0].weight: 0 is not above 0", "1:45: data.train[1].source: is required"],
    );
    check(
        "data: {train: [a.json, a.json], tokenizer: t.json}",
        &["1:24: data.train[1].source: is a source already; give it once, with the sum of the weights"],
    );
    check(
        "data: {train: [{source: a.json, weight: 1e9}, b.json], tokenizer: t.json}",
        &[
            "1:15: data.train: weight 1 of source 1 is not at least a thousandth of all weights together; raise it or leave \
           the source out",
        ],
    );
    check(
        "data: {train: 'ftp://h/{0..9}.tar', tokenizer: t.json}",
        &[
            "1:15: data.train: `ftp://h/x0..9x.tar` can't be used as a storage URL: the scheme `ftp` is not supported; use one of \
           file, s3, gs, az, http, https",
        ],
    );
    check(
        "data: {train: a.json, tokenizer: t.json, captions: json, text_length: [1, 24, 24]}",
        &[
            "1:52: data.captions: the field of the .json with the caption is required; write {from: json, field: NAME}",
            "1:72: data.text_length[0]: 1 is below 2, the least",
            "1:79: data.text_length[2]: 24 is given twice",
        ],
    );
    check(
        "data: {train: a.json, tokenizer: t.json, captions: {field: x, choose: all}}",
        &["1:60: data.captions.field: is for captions from `json` only"],
    );
    check(
        "data: {train: a.json, tokenizer: t.json, augment: {crop: {scale: [0.5]}, flip: 2, flop: 1, jitter: {hue: 0.6}}}",
        &[
            "1:66: data.augment.crop.scale: 1 values, where 2 are expected",
            "1:80: data.augment.flip: must be from 0 to 1, not 2",
            "1:83: data.augment.flop: unknown key; did you mean `flip`?",
            "1:106: data.augment.jitter.hue: must be from 0 to 0.5, not 0.6",
        ],
    );
    check(
        "data: {train: 'a-*.tar', tokenizer: t.json, filter: {min_side: 9, max_side: 8, max_aspect: 0.5, min_size: 1, \
         scores: [{min: 1}, {field: s}]}}",
        &[
            "1:64: data.filter.min_side: is larger than max_side",
            "1:92: data.filter.max_aspect: is no number of at least 1; it is the longer side over the shorter one",
            "1:97: data.filter.min_size: unknown key; did you mean `min_side`?",
            "1:119: data.filter.scores[0].field: is empty; name a field of the .json",
            "1:129: data.filter.scores[1].min: is not set, nor is max; set one of them",
        ],
    );
    check(
        "data: {train: ['a-*.tar', b.json], tokenizer: t.json, filter: {min_side: 64}}",
        &[
            "1:63: data.filter: is for shards that are still to be indexed, and the samples of \"file:///home/me/jobs/b.json\" were chosen \
             when it was written; name the shards by a pattern, or write the manifest again with `cappactl data index` and these bounds",
        ],
    );
    check(
        "data: {train: [a.json, b.json], tokenizer: t.json}\nduration: {epochs: 2}",
        &["2:20: duration.epochs: every source of data.train has epochs of its own; give steps or examples"],
    );
}

#[test]
fn ten_mistakes_are_ten_messages() {
    let text = "\
apiVersion: cappa.dev/v2
name: Demo
kind: export
objectiv: cap
model: {preset: huge, heads: 5}
data: {train: m.json, tokenizer: 'gopher://x/y', text_lenght: 24}
batch_size: lots
optimizer: {learning_rate: -1}
workers: {min: 4, max: 2}
duration: {steps: 5}
";
    let errors = parse(text).unwrap_err();
    let codes: Vec<_> = errors.errors().iter().map(|error| (error.path.as_str(), error.code)).collect();
    let expected = [
        ("apiVersion", Mistake::UnknownValue),
        ("name", Mistake::BadName),
        ("kind", Mistake::Unsupported),
        ("objectiv", Mistake::UnknownKey),
        ("model.preset", Mistake::UnknownValue),
        ("data.tokenizer", Mistake::BadUrl),
        ("data.text_lenght", Mistake::UnknownKey),
        ("batch_size", Mistake::WrongType),
        ("optimizer.learning_rate", Mistake::OutOfRange),
        ("workers.min", Mistake::Inconsistent),
    ];
    for (path, code) in expected {
        assert!(codes.contains(&(path, code)), "{path}: {errors}");
    }
    // `heads` and the width of the unreadable preset are not held against each other.
    assert_eq!(codes.len(), expected.len(), "{errors}");
    assert!(errors.to_string().starts_with("the spec has 10 mistakes\n  1:13: apiVersion: "), "{errors}");
}

#[test]
fn overrides_are_put_over_the_document() {
    let pairs =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<Vec<_>>();
    let base = SpecBase::folder("/data");
    let text = document("evaluate: [{name: a, data: d.json, task: caption}]");
    let set = pairs(&[("data.seed", "7"), ("model", "tiny"), ("optimizer.beta1", "0.5"), ("evaluate[0].limit", "9")]);
    let spec = JobSpec::parse_with(&text, &set, &base).unwrap();
    assert_eq!((spec.data.seed, spec.model.preset.as_str(), spec.optimizer.beta1), (7, "tiny", 0.5));
    assert_eq!(spec.evaluate[0].limit, Some(9));
    assert_eq!(JobSpec::parse(&apply_overrides(&text, &set).unwrap(), &base).unwrap(), spec);
    assert_eq!(apply_overrides(&text, &[]).unwrap(), text);

    let bad =
        pairs(&[("data.sede", "7"), ("name.x", "1"), ("evaluate[3].name", "b"), ("a..b", "1"), ("batch_size", "[")]);
    let errors = JobSpec::parse_with(&text, &bad, &base).unwrap_err();
    let found: Vec<String> = errors.errors().iter().map(ToString::to_string).collect();
    assert_eq!(found[0], "a..b: is no path; write keys with dots between them, as in data.seed");
    assert!(found[1].starts_with("batch_size: the value to set: "), "{}", found[1]);
    assert_eq!(
        found[2..],
        [
            "data.sede: unknown key; did you mean `seed`?",
            "evaluate[3].name: leads into a list whose items are [0] to [0]; set that as a whole",
            "name.x: leads into the text `demo`; set that as a whole",
        ]
    );
}

#[test]
fn steps_of_an_epoch_are_those_of_the_sample_order() {
    let spec = spec("duration: {epochs: 3}\nbatch_size: 24\ndata: {train: a, tokenizer: b, lanes: 6}");
    let order = crate::order::SampleOrder::new(vec![50, 51], 1, 6, 2).unwrap();
    assert_eq!(spec.total_steps(101), 3 * order.steps(24).unwrap().per_epoch());
    assert_eq!((spec.schedule.warmup_steps, spec.warmup_steps(50)), (None, 5));
}

#[test]
fn the_schema_describes_every_key_and_names_every_required_one() {
    let schema = JobSpec::json_schema();
    assert_eq!(schema["required"], serde_json::json!(["apiVersion", "name", "data"]));
    assert_eq!(schema["additionalProperties"], false);
    for (key, property) in schema["properties"].as_object().unwrap() {
        assert!(property["description"].is_string(), "{key} is not described");
    }
}

#[test]
fn scheduling_is_checked_key_by_key() {
    let good = "priority: high\nnamespace: vision\non_preemption: cancel\nretry: {infrastructure: 3, backoff: 1m}\n\
                after: [{job: pretrain-abcde}]\non_failed_dependency: wait\ntime_limit: 12h\nqueue_deadline: 30m";
    let spec = spec(good);
    assert_eq!(spec.priority, Priority::Class("high".into()));
    assert_eq!((spec.retry.infrastructure, spec.retry.backoff.to_string()), (3, "1m".into()));
    assert_eq!(spec.after, [Dependency { job: "pretrain-abcde".into(), condition: Condition::Succeeded }]);
    assert_eq!(spec.time_limit.map(|limit| limit.0.as_secs()), Some(43_200));
    let bad = "priority: Very High\nnamespace: a b\nretry: {data: 5000, backoff: soon}\n\
               after: [{job: x}, {job: x}]\ntime_limit: 0s\nqueue_deadline: tomorrow";
    let errors = parse(&format!("{MINIMAL}{bad}\n")).unwrap_err();
    let paths: Vec<&str> = errors.errors().iter().map(|error| error.path.as_str()).collect();
    for path in ["priority", "namespace", "retry.data", "retry.backoff", "after[1].job", "time_limit", "queue_deadline"]
    {
        assert!(paths.contains(&path), "{path} is not among {paths:?}");
    }
}
