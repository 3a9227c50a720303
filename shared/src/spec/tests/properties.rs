//! What holds for every spec there can be.

use proptest::prelude::*;

use super::*;
use crate::manifest::{Filter, ScoreRange};

fn any_task() -> impl Strategy<Value = Task> {
    prop_oneof![
        (1..9u32, 0..3u32)
            .prop_map(|(beams, penalty)| { Task::Caption(Decoding { beams, length_penalty: f64::from(penalty) }) }),
        Just(Task::Perplexity),
        Just(Task::Retrieval),
        ("[a-z.]{1,9}", prop::option::of("[a-z.]{1,9}"), 1..9u32).prop_map(|(question, answer, beams)| {
            Task::Answer { question, answer, decoding: Decoding { beams, ..Decoding::default() } }
        }),
        (prop::option::of("[a-z.]{1,9}"), prop::option::of("[a-z.]{1,9}"))
            .prop_map(|(caption, negative)| { Task::Choose { caption, shuffle: negative.is_none(), negative } }),
        Just(Task::Accuracy),
        ("[a-z.]{1,9}", prop::collection::vec("(?s).{0,6}", 0..3), "(?s).{0,6}").prop_map(|(label, labels, prompt)| {
            let template = Templates::new(vec![format!("{}{{}}", prompt.replace("{}", "")); labels.len() % 2 + 1]);
            Task::Classify { label, labels, template }
        }),
        ("[a-z.]{1,9}", prop::collection::btree_set(1..99u32, 1..4), 1..9u32).prop_map(|(label, shots, draws)| {
            let train = "s3://bucket/t.json".into();
            Task::Fewshot { label, train, shots: shots.into_iter().collect(), draws }
        }),
    ]
}

fn any_sources() -> impl Strategy<Value = Sources> {
    let source = prop_oneof!["[a-z]{1,9}\\.json", "[a-z]{1,5}-\\{0\\.\\.9\\}\\.tar", "[a-z]{1,5}-[?*]\\.tar"];
    prop::collection::btree_map(source, 0.5..2.0f64, 1..4).prop_map(|sources| {
        let only = sources.len() == 1;
        let one = |(name, weight)| Source { source: format!("s3://b/{name}"), weight: if only { 1.0 } else { weight } };
        Sources::new(sources.into_iter().map(one).collect())
    })
}

fn any_captions() -> impl Strategy<Value = Captions> {
    let source = prop_oneof![
        Just(CaptionSource::Auto),
        Just(CaptionSource::Txt),
        "(?s).{1,6}".prop_map(|field| CaptionSource::Json { field }),
    ];
    let choose = prop_oneof![Just(CaptionChoice::One), Just(CaptionChoice::Turn), Just(CaptionChoice::All)];
    (source, choose).prop_map(|(source, choose)| Captions { source, choose })
}

fn any_label() -> impl Strategy<Value = Label> {
    let names = prop::collection::btree_set("(?s).{0,6}", 2..5).prop_map(|names| names.into_iter().collect());
    let classes = prop_oneof![(2..=100_000u32).prop_map(Classes::Count), names.prop_map(Classes::Names)];
    ("[a-z.]{1,9}", classes).prop_map(|(field, classes)| Label { field, classes })
}

fn any_filter() -> impl Strategy<Value = Filter> {
    let scores = prop::option::of("(?s).{1,6}").prop_map(|field| {
        let range = |field| ScoreRange { field, min: Some(0.25), max: None };
        field.map(range).into_iter().collect()
    });
    (prop::option::of(1..500u32), prop::option::of(1.0..9.0f64), prop::option::of(any::<u32>()), scores).prop_map(
        |(min_side, max_aspect, max_caption, scores)| Filter {
            min_side,
            max_aspect,
            max_caption,
            scores,
            fields: max_aspect.map(|_| "negatives.relation".into()).into_iter().collect(),
            ..Filter::default()
        },
    )
}

prop_compose! {
    fn any_augment()(
        crop in prop::option::of(Just(Crop::default())),
        flip in 0.0..=1.0f64,
        jitter in prop::option::of((0.0..2.0f64, 0.0..=0.5f64)),
    ) -> Augment {
        let jitter = jitter.map(|(range, hue)| Jitter { brightness: range, contrast: range, saturation: range, hue });
        Augment { crop, flip, jitter }
    }
}

fn any_text_pooling() -> impl Strategy<Value = TextPooling> {
    prop_oneof![Just(TextPooling::Map), Just(TextPooling::Last)]
}

prop_compose! {
    fn any_spec()(
        name in "[a-z][a-z0-9]{0,20}",
        objective in prop_oneof![
            any_text_pooling().prop_map(|text_pooling| Objective::Clip { text_pooling }),
            any_text_pooling().prop_map(|text_pooling| Objective::Siglip { text_pooling }),
            (0.0..1.0f64, any::<bool>()).prop_map(|(label_smoothing, mean)| {
                let (pooling, loss) = if mean { (Pooling::Mean, ClassLoss::Sigmoid) } else { Default::default() };
                Objective::Classify { pooling, loss, label_smoothing }
            }),
            (0.0..1.0f64).prop_map(|label_smoothing| Objective::Cap { label_smoothing }),
            (0.0..=1.0f64, 0.01..=1.0f64, 0.0..1.0f64).prop_map(|(parallel_fraction, masking_ratio, label_smoothing)| {
                Objective::Cappa { parallel_fraction, masking_ratio, label_smoothing }
            }),
        ],
        (lanes, slots, seed) in (1..200u32, 1..50u32, any::<u64>()),
        length in prop_oneof![(1..1u64 << 40).prop_map(Length::Steps), (1..1000u64).prop_map(Length::Epochs), (1..1u64 << 40).prop_map(Length::Examples)],
        (shape, cooldown) in (prop_oneof![
            Just((ScheduleName::Cosine, 0.0, None)), Just((ScheduleName::Constant, 0.0, None)),
            (0.0..=1.0f64).prop_map(|end| (ScheduleName::Linear, end, None)),
            prop::option::of(1..1u64 << 40).prop_map(|timescale| (ScheduleName::Rsqrt, 0.0, timescale)),
        ], 0..1u64 << 40),
        learning_rate in 1e-12..1e6f64,
        beta1 in 0.0..1.0f64,
        priority in prop_oneof![any::<i32>().prop_map(Priority::Number), "[a-z]{1,9}".prop_map(Priority::Class)],
        (retry, limit) in ((0..9u32, 0..9u32, 1..99_999u64), prop::option::of(1..u64::MAX / 4_000_000)),
        after in prop::collection::btree_set("[a-z]{1,9}", 0..3),
        tasks in prop::collection::vec((any_task(), prop::option::of(1..u64::MAX)), 0..3),
        (micro, ema) in (prop::option::of(1..1000u32), prop::option::of(0.0..1.0f64)),
        (bf16, freeze, init) in (any::<bool>(), any::<bool>(), prop::option::of(prop::sample::subsequence(
            vec![Part::Encoder, Part::Head, Part::Text, Part::Decoder], 0..=4,
        ))),
        (train, filter) in (any_sources(), any_filter()),
        label in any_label(),
        (captions, decode, augment, lengths) in (any_captions(), prop_oneof![Just(Decode::Exact), Just(Decode::Fast)], any_augment(), prop::collection::btree_set(2..4096u32, 1..5)),
    ) -> JobSpec {
        let mut spec = spec("model: tiny");
        spec.name = name;
        spec.objective = objective;
        (spec.micro_batch_size, spec.ema_decay) = (micro, ema);
        let is_of = |part: &Part| part.is_of(&objective);
        spec.init = init.map(|parts| Init { from: "s3://b/c/MANIFEST.json".into(), parts: parts.into_iter().filter(is_of).collect() });
        spec.freeze = if freeze { vec![Part::Encoder] } else { Vec::new() };
        (spec.data.lanes, spec.batch_size, spec.data.seed) = (lanes, lanes * slots, seed);
        (spec.data.train, spec.data.decode) = (train, decode);
        spec.data.prefix = objective.is_captioning().then(|| spec.name.clone()).filter(|_| bf16);
        spec.data.label = objective.is_classifying().then_some(label);
        spec.data.captions = if objective.is_classifying() { Captions::default() } else { captions };
        spec.data.augment = augment;
        let most = if objective.is_contrastive() { 1 } else { usize::MAX };
        spec.data.text_length = TextLengths::new(lengths.into_iter().take(most).collect());
        spec.data.filter = if spec.data.train.iter().any(Source::is_manifest) { Filter::default() } else { filter };
        let has_epochs = spec.data.train.only().is_some();
        let length = match length { Length::Epochs(n) if !has_epochs => Length::Steps(n), length => length };
        spec.duration = length;
        let steps = match length { Length::Epochs(_) => None, _ => Some(spec.total_steps(1)) };
        spec.schedule.warmup_steps = steps.map(|steps| spec.warmup_steps(steps).min(steps));
        (spec.schedule.name, spec.schedule.end, spec.schedule.timescale) = shape;
        spec.schedule.cooldown_steps = steps.map_or(cooldown, |steps| cooldown.min(steps - spec.warmup_steps(steps)));
        (spec.optimizer.learning_rate, spec.optimizer.beta1, spec.priority) = (learning_rate, beta1, priority);
        let (action, most) = if ema.is_some() { (BadLossAction::Skip, lanes) } else { (BadLossAction::Stop, 10) };
        spec.gradient_checkpointing = ema.is_some();
        spec.on_bad_loss = OnBadLoss { action, spike: ema.map(|ema| 1.5 + ema), most };
        spec.precision = if bf16 { Precision::Bf16 } else { Precision::Fp32 };
        spec.workers = Workers { min: 1, max: lanes };
        let backoff = Span(std::time::Duration::from_millis(retry.2));
        spec.retry = Retry { data: retry.0, user: retry.1, infrastructure: retry.0, backoff };
        spec.time_limit = limit.map(|limit| Span(std::time::Duration::from_millis(limit)));
        spec.after = after.into_iter().map(|job| Dependency { job, condition: Condition::Ended }).collect();
        let suits = |task: &Task| match task {
            Task::Accuracy => objective.is_classifying(),
            Task::Fewshot { .. } => true,
            Task::Caption(_) | Task::Perplexity | Task::Answer { .. } => objective.is_captioning(),
            Task::Retrieval => objective.is_contrastive(),
            Task::Classify { .. } | Task::Choose { .. } => !objective.is_classifying(),
        };
        spec.evaluate = tasks.into_iter().filter(|(task, _)| suits(task)).enumerate().map(|(n, (task, limit))| {
            Evaluation { name: format!("e{n}"), data: "s3://bucket/d.json".into(), task, limit }
        }).collect();
        spec
    }
}

proptest! {
    #[test]
    fn the_printed_spec_parses_back_to_itself(spec in any_spec()) {
        for text in [spec.to_document(), spec.to_json()] {
            let again = JobSpec::parse(&text, &SpecBase::none()).map_err(|errors| TestCaseError::fail(format!("{errors}\n{text}")))?;
            prop_assert_eq!(&again, &spec, "{}", text);
            prop_assert_eq!(again.digest(), spec.digest());
        }
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }

    #[test]
    fn no_bytes_make_the_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn no_change_of_a_good_document_makes_the_parser_panic(
        at in 0..400usize, len in 0..20usize, patch in "[\\[\\]{}:,&*!|>'\"%@`#?\n\t a-z0-9.-]{0,12}",
    ) {
        let mut text = spec("model: tiny\nevaluate: [{name: a, data: d, task: {type: classify, label: x}}]").to_document();
        let (from, to) = (at.min(text.len()), (at + len).min(text.len()));
        text.replace_range(from..to, &patch);
        let _ = parse(&text);
    }
}
