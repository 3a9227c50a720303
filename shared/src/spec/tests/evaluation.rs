//! What may be measured.

use super::*;

#[test]
fn mistakes_of_evaluations_are_named() {
    let lines = "evaluate:
- {name: a, data: d.json, task: caption}
- {name: a, data: d.json, task: choose}
- {name: b, data: d.json, task: {type: classify, label: class, template: a photo, negative: x}}
- {name: C, data: d.json, task: {type: caption}, limit: 0}
- {name: d, task: sing}";
    check(
        lines,
        &[
            "3:10: evaluate[1].name: `a` is the name of another evaluation too",
            "3:33: evaluate[1].task.negative: is required for the task `choose`: the field of a sample's .json",
            "4:74: evaluate[2].task.template: `a photo` does not have `{}` once, where the label goes",
            "4:93: evaluate[2].task.negative: is for the task `choose` only",
            "5:10: evaluate[3].name: `C` is not a name; use 1 to 63 lower-case letters, digits and inner hyphens",
            "5:57: evaluate[3].limit: 0 is below 1, the least",
            "6:3: evaluate[4].data: is required",
            "6:19: evaluate[4].task: `sing` is not one of `classify`, `choose`, `fewshot`, `caption`, `perplexity`, `retrieval`, `answer`, `accuracy`",
        ],
    );
}

#[test]
fn several_templates_are_asked_about_every_label() {
    let lines = "evaluate:
- {name: a, data: d.json, task: {type: classify, label: class, template: ['a {}', 'no {} here']}}
- {name: b, data: d.json, task: {type: classify, label: class, template: 'a {}'}}";
    let spec = spec(lines);
    let Task::Classify { template, .. } = &spec.evaluate[0].task else { panic!("another task") };
    let labels = ["cat".to_owned(), "dog".to_owned()];
    assert_eq!(template.prompts(&labels), ["a cat", "no cat here", "a dog", "no dog here"]);
    let again: JobSpec = serde_json::from_str(&spec.to_json()).unwrap();
    assert_eq!(again.evaluate, spec.evaluate);
    check(
        "evaluate: [{name: a, data: d.json, task: {type: classify, label: class, template: ['a {}', a photo]}}]",
        &["1:92: evaluate[0].task.template[1]: `a photo` does not have `{}` once, where the label goes"],
    );
}

#[test]
fn tasks_say_what_they_read_and_refuse_what_is_not_theirs() {
    let lines = "evaluate:
- {name: order, data: d.json, task: {type: choose, shuffle: true}}
- {name: swap, data: d.json, task: {type: choose, caption: caption, negative: hard.negatives}}
- {name: text, data: d.json, task: {type: caption, beams: 4}}
- {name: vqa, data: d.json, task: answer}
- {name: ocr, data: d.json, task: {type: answer, question: q, answer: a, length_penalty: 0}}";
    let spec = spec(lines);
    let fields: Vec<_> = spec.evaluate.iter().map(|evaluation| evaluation.task.fields()).collect();
    let wanted: [&[&[&str]]; 5] =
        [&[], &[&["caption"], &["hard.negatives"]], &[], &[&["question"], &["answers", "answer"]], &[&["q"], &["a"]]];
    assert_eq!(fields, wanted);
    let penalty = |beams, length_penalty| Decoding { beams, length_penalty };
    assert_eq!(spec.evaluate[2].task, Task::Caption(penalty(4, 1.0)));
    check(
        "evaluate: [{name: a, data: d.json, task: {type: choose, shuffle: true, negative: x}}, \
         {name: b, data: d.json, task: {type: caption, beams: 0, question: q}}, \
         {name: c, data: d.json, task: retrieval}]",
        &[
            "1:82: evaluate[0].task.negative: is given, but with shuffle the false caption is made of the true one; leave one out",
            "1:140: evaluate[1].task.beams: 0 is below 1, the least",
            "1:153: evaluate[1].task.question: is for the task `answer` only",
            "1:188: evaluate[2].task: `retrieval` compares the embeddings of two towers, and `cappa` trains none; use `clip` or `siglip`",
        ],
    );
}

#[test]
fn a_job_that_only_evaluates_needs_a_checkpoint_and_something_to_measure() {
    let head = "apiVersion: cappa.dev/v1\nkind: evaluate\nname: demo\n";
    let from = "from: /jobs/a/checkpoints/000000000010/MANIFEST.json\n";
    let data = "data: {tokenizer: t.json}\n";
    let evaluate = "evaluate: [{name: a, data: d.json, task: caption}]\n";
    let spec = parse(&format!("{head}{from}{data}{evaluate}")).unwrap();
    assert_eq!((spec.kind, spec.duration, spec.total_steps(1000)), (JobKind::Evaluate, Length::Steps(0), 0));
    assert!(spec.init.as_ref().unwrap().from.ends_with("/jobs/a/checkpoints/000000000010/MANIFEST.json"));
    assert_eq!(JobSpec::parse(&spec.to_document(), &SpecBase::none()).unwrap(), spec);
    let of_job = parse(&format!("{head}from: demo-k7f3q\n{data}{evaluate}")).unwrap();
    assert_eq!(of_job.init.as_ref().unwrap().job(), Some("demo-k7f3q"));
    assert_eq!(of_job.after, [Dependency { job: "demo-k7f3q".into(), condition: Condition::Succeeded }]);
    assert_eq!(JobSpec::parse(&of_job.to_document(), &SpecBase::none()).unwrap(), of_job);
    let paths = |text: &str| -> Vec<String> {
        parse(text).unwrap_err().errors().iter().map(|error| error.path.clone()).collect()
    };
    assert_eq!(paths(&format!("{head}{data}{evaluate}")), ["from"]);
    assert_eq!(paths(&format!("{head}{from}{data}")), ["evaluate"]);
    let training = "duration: {steps: 5}\nfreeze: [encoder]\n";
    assert_eq!(paths(&format!("{head}{from}{data}{evaluate}{training}")), ["duration", "freeze"]);
    let pretrain = head.replace("evaluate", "pretrain");
    let mut found = paths(&format!("{pretrain}{from}{data}duration: {{steps: 5}}\n"));
    found.sort_unstable();
    assert_eq!(found, ["data.train", "from"]);
}
