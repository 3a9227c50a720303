//! Specs of classifications.

use super::*;

#[test]
fn a_classification_names_its_classes_and_what_knows_no_texts_is_asked_for_none() {
    let named = "objective: {type: classify, pooling: mean, label_smoothing: 0.1}";
    let label = |classes: &str| document(named).replace("data: {", &format!("data: {{label: {classes}, "));
    let spec = parse(&label("{field: class, classes: [red star, blue ring]}")).unwrap();
    let classes = Classes::Names(vec!["red star".into(), "blue ring".into()]);
    assert_eq!(spec.data.label, Some(Label { field: "class".into(), classes }));
    let objective = Objective::Classify { pooling: Pooling::Mean, loss: ClassLoss::Softmax, label_smoothing: 0.1 };
    assert_eq!(spec.objective, objective);
    assert_eq!(parse(&label("{field: a.b, classes: 1000}")).unwrap().data.label.unwrap().classes.count(), 1000);
    for (lines, said) in [
        ("{field: class, classes: [a]}", "data.label.classes: 1 is below 2, the least"),
        ("{field: class, classes: [a, b, a]}", "data.label.classes[2]: `a` is given twice"),
        ("{field: class}", "data.label.classes: is required"),
        ("{field: c, classes: 2}, captions: txt", "data.captions: is for objectives that learn from captions"),
    ] {
        let errors = parse(&label(lines)).unwrap_err().to_string();
        assert!(errors.contains(said), "{lines}: {errors}");
    }
    for (lines, said) in [
        ("freeze: [encoder, head]", "freeze: leaves nothing to train"),
        ("freeze: [text]", "freeze[0]: a network of `classify` has no part `text`"),
        ("evaluate: [{name: a, data: d.json, task: caption}]", "needs a network that knows texts"),
    ] {
        let errors = parse(&format!("{}{lines}\n", label("{field: c, classes: 2}"))).unwrap_err().to_string();
        assert!(errors.contains(said), "{lines}: {errors}");
    }
    let prefixed = document("objective: siglip").replace("data: {", "data: {prefix: question, ");
    assert!(parse(&prefixed).unwrap_err().to_string().contains("data.prefix: is for `cap` and `cappa` only"));
    check("objective: {type: cap, pooling: map}", &["1:33: objective.pooling: is for `classify` only"]);
}

#[test]
fn a_policy_for_bad_losses_has_a_short_form_and_sensible_bounds() {
    assert_eq!(spec("").on_bad_loss, OnBadLoss { action: BadLossAction::Stop, spike: None, most: 10 });
    let skip = OnBadLoss { action: BadLossAction::Skip, spike: Some(3.0), most: 5 };
    assert_eq!(spec("on_bad_loss: {action: skip, spike: 3, most: 5}").on_bad_loss, skip);
    assert_eq!(spec("on_bad_loss: skip").on_bad_loss.action, BadLossAction::Skip);
    assert_eq!(spec("on_bad_loss: rewind").on_bad_loss.action, BadLossAction::Rewind);
    check("on_bad_loss: {spike: 1}", &["1:22: on_bad_loss.spike: 1 is not above 1"]);
    check("on_bad_loss: {action: skip, most: 0}", &["1:35: on_bad_loss.most: 0 is below 1, the least"]);
}
