//! The sizes of a checkpoint's network, read off the shapes of its parameters, beside those of the job that is to start from it.

use std::collections::BTreeMap;

use super::{JobSpec, Objective, Part, Pooling, PositionEmbedding, TextPooling};

/// Shapes of parameters by their names in the authors' tree.
pub type Shapes = BTreeMap<String, Vec<u64>>;

impl JobSpec {
    /// What of a checkpoint's network differs from that of the job, in the parts that [`JobSpec::init`] takes: a sentence for
    /// each field of the spec. Another resolution is no difference where the positions can be resampled.
    pub fn init_differences(&self, shapes: &Shapes) -> Vec<String> {
        let mut comparison = Comparison { spec: self, shapes, differences: Vec::new() };
        self.init_parts().for_each(|part| comparison.part(part));
        comparison.differences
    }

    /// Whether parts that know words are taken from a checkpoint, so that its vocabulary must be the job's.
    pub fn init_knows_words(&self) -> bool {
        self.init_parts().any(|part| matches!(part, Part::Text | Part::Decoder))
    }

    /// The parts that [`JobSpec::init`] takes.
    fn init_parts(&self) -> impl Iterator<Item = Part> {
        let takes =
            |part: &Part| self.init.as_ref().is_some_and(|init| init.parts.is_empty() || init.parts.contains(part));
        let all = [Part::Encoder, Part::Head, Part::Text, Part::Decoder].into_iter();
        all.filter(|part| part.is_of(&self.objective)).filter(takes)
    }
}

struct Comparison<'a> {
    spec: &'a JobSpec,
    shapes: &'a Shapes,
    differences: Vec<String>,
}

impl Comparison<'_> {
    fn part(&mut self, part: Part) {
        // The encoder of a captioner and the image tower of two towers are one network under two names.
        let image = if self.shapes.contains_key("img/embedding/kernel") { "img" } else { "encoder" };
        let telling = match part {
            Part::Encoder => format!("{image}/embedding/kernel"),
            Part::Head => "img/head/kernel".to_owned(),
            Part::Text => "txt/Embed_0/embedding".to_owned(),
            Part::Decoder => "decoder/LogitsDense/kernel".to_owned(),
        };
        if !self.shapes.contains_key(&telling) {
            self.differences.push(format!("it has no part `{part}`"));
            return;
        }
        match part {
            Part::Encoder => self.encoder(image),
            Part::Head => self.head(),
            Part::Text => self.text(),
            Part::Decoder => self.decoder(),
        }
    }

    fn encoder(&mut self, image: &str) {
        let spec = self.spec;
        let kernel = format!("{image}/embedding/kernel");
        self.size("model.patch", &kernel, 0, spec.model.patch);
        self.size("model.width", &kernel, 3, spec.model.width);
        self.blocks(&format!("{image}/Transformer"));
        let positions = self.shapes.get(&format!("{image}/pos_embedding"));
        let learned = spec.model.position == PositionEmbedding::Learn;
        if positions.is_some() != learned {
            let kinds = ["sincos2d", "learn"].map(|kind| format!("`{kind}`"));
            self.differ("model.position", &kinds[usize::from(!learned)], &kinds[usize::from(learned)]);
        }
        let side = u64::from(spec.data.image_size / spec.model.patch.max(1));
        if let Some(&[_, patches, _]) = positions.map(Vec::as_slice)
            && learned
            && patches != side * side
            && patches.isqrt().pow(2) != patches
        {
            let message = format!("its {patches} positions are no square grid, so they can't be resampled");
            self.differences.push(message);
        }
    }

    fn head(&mut self) {
        self.size("model.width", "img/head/kernel", 0, self.spec.model.width);
        if let Some(label) = &self.spec.data.label {
            self.size("number of classes (data.label)", "img/head/kernel", 1, label.classes.count());
        }
        if let Objective::Classify { pooling, .. } = self.spec.objective {
            let found = if self.shapes.contains_key("img/MAPHead_0/probe") { Pooling::Map } else { Pooling::Mean };
            if found != pooling {
                let name = |pooling| format!("`{pooling:?}`").to_lowercase();
                self.differ("objective.pooling", &name(found), &name(pooling));
            }
        }
    }

    fn text(&mut self) {
        let spec = self.spec;
        self.size("model.vocabulary", "txt/Embed_0/embedding", 0, spec.model.vocabulary);
        self.size("model.width", "txt/Embed_0/embedding", 1, spec.model.width);
        self.size("data.text_length", "txt/pos_embedding", 1, spec.data.text_length.longest());
        self.blocks("txt/Encoder_0");
        if let Some(wanted) = spec.objective.text_pooling() {
            let found =
                if self.shapes.contains_key("txt/MAPHead_0/probe") { TextPooling::Map } else { TextPooling::Last };
            if found != wanted {
                let name = |pooling| format!("`{pooling:?}`").to_lowercase();
                self.differ("objective.text_pooling", &name(found), &name(wanted));
            }
        }
    }

    fn decoder(&mut self) {
        let spec = self.spec;
        let (logits, block) = ("decoder/LogitsDense/kernel", "decoder/EncDecBlock");
        self.size("model.width", logits, 0, spec.model.width);
        self.size("model.vocabulary", logits, 1, spec.model.vocabulary);
        self.size("data.text_length", "pos_embedding_decoder", 1, spec.data.text_length.longest());
        self.count("model.decoder_layers", block, "/LayerNorm1/scale", spec.model.decoder_layers);
        self.size("model.heads", &format!("{block}0/SelfAttn/query/kernel"), 1, spec.model.heads);
        self.size("model.mlp", &format!("{block}0/MLP/Dense_0/kernel"), 1, spec.model.mlp);
        let has_bias = self.shapes.contains_key(&format!("{block}0/LayerNorm1/bias"));
        if has_bias != spec.model.decoder_bias {
            self.differ("model.decoder_bias", &has_bias.to_string(), &spec.model.decoder_bias.to_string());
        }
        // The mask token is one more row, of networks that predict in parallel.
        let rows = |name: &str, place: usize| self.shapes.get(name)?.get(place).copied();
        let has_mask = rows("decoder/EmbedTargets/embedding", 0) > rows(logits, 1);
        if has_mask != (spec.objective.parallel_fraction() > 0.0) {
            let objectives = ["`cap`", "`cappa`"];
            self.differ("objective", objectives[usize::from(has_mask)], objectives[usize::from(!has_mask)]);
        }
    }

    /// The blocks of an encoder or text tower.
    fn blocks(&mut self, root: &str) {
        let model = &self.spec.model;
        let block = format!("{root}/encoderblock_");
        self.count("model.layers", &block, "/LayerNorm_0/scale", model.layers);
        self.size("model.heads", &format!("{block}0/MultiHeadDotProductAttention_0/query/kernel"), 1, model.heads);
        self.size("model.mlp", &format!("{block}0/MlpBlock_0/Dense_0/kernel"), 1, model.mlp);
    }

    /// A size that a parameter's shape tells, where the checkpoint has the parameter.
    fn size(&mut self, field: &str, name: &str, place: usize, wanted: u32) {
        if let Some(&found) = self.shapes.get(name).and_then(|shape| shape.get(place))
            && found != u64::from(wanted)
        {
            self.differ(field, &found.to_string(), &wanted.to_string());
        }
    }

    /// How many blocks there are.
    fn count(&mut self, field: &str, before: &str, after: &str, wanted: u32) {
        let is_one = |name: &&String| name.starts_with(before) && name.ends_with(after);
        let found = self.shapes.keys().filter(is_one).count();
        if found as u64 != u64::from(wanted) {
            self.differ(field, &found.to_string(), &wanted.to_string());
        }
    }

    /// Parts of one network share sizes, and each is told once.
    fn differ(&mut self, field: &str, found: &str, wanted: &str) {
        let difference = format!("its {field} is {found}, the job's {wanted}");
        if !self.differences.contains(&difference) {
            self.differences.push(difference);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SpecBase;

    fn spec(lines: &str) -> JobSpec {
        let text = format!(
            "apiVersion: cappa.dev/v1\nname: demo\nduration: {{steps: 10}}\n\
             data: {{train: /data/t.json, tokenizer: /data/t.json}}\ninit: /c/1/MANIFEST.json\n{lines}\n"
        );
        JobSpec::parse(&text, &SpecBase::none()).unwrap()
    }

    /// Those of the parameters of a `tiny` network for 32 × 32 pixels that tell something.
    fn captioner() -> Shapes {
        let attention = "encoder/Transformer/encoderblock_0/MultiHeadDotProductAttention_0/query/kernel";
        let mut shapes: Vec<(String, Vec<u64>)> = [
            ("encoder/embedding/kernel", vec![8, 8, 3, 128]),
            ("encoder/pos_embedding", vec![1, 16, 128]),
            (attention, vec![128, 4, 32]),
            ("encoder/Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel", vec![128, 512]),
            ("decoder/EmbedTargets/embedding", vec![513, 128]),
            ("pos_embedding_decoder", vec![1, 24, 128]),
            ("decoder/LogitsDense/kernel", vec![128, 512]),
        ]
        .map(|(name, shape)| (name.to_owned(), shape))
        .to_vec();
        let block = |n| (format!("encoder/Transformer/encoderblock_{n}/LayerNorm_0/scale"), vec![128]);
        shapes.extend((0..4).map(block));
        shapes.extend((0..2).map(|n| (format!("decoder/EncDecBlock{n}/LayerNorm1/scale"), vec![128])));
        shapes.into_iter().collect()
    }

    #[test]
    fn a_network_of_the_same_sizes_does_not_differ() {
        assert_eq!(spec("model: tiny").init_differences(&captioner()), Vec::<String>::new());
    }

    #[test]
    fn what_differs_is_told_by_the_fields_of_the_spec() {
        let found =
            spec("model: {preset: tiny, width: 64, layers: 3, decoder_layers: 1, vocabulary: 300}\nobjective: cap")
                .init_differences(&captioner());
        let expected = [
            "its model.width is 128, the job's 64",
            "its model.layers is 4, the job's 3",
            "its model.vocabulary is 512, the job's 300",
            "its model.decoder_layers is 2, the job's 1",
            "its objective is `cappa`, the job's `cap`",
        ];
        assert_eq!(found, expected);
        let found = spec("model: {preset: tiny, position: sincos2d}\nobjective: siglip").init_differences(&captioner());
        let expected =
            ["its model.position is `learn`, the job's `sincos2d`", "it has no part `head`", "it has no part `text`"];
        assert_eq!(found, expected);
        // A text tower without attention pooling.
        let mut towers = captioner();
        towers.insert("txt/Embed_0/embedding".into(), vec![512, 128]);
        let of = |pooling: &str| {
            let lines = format!("model: tiny\nobjective: {{type: siglip, text_pooling: {pooling}}}");
            spec(&lines).init_differences(&towers)
        };
        let difference = "its objective.text_pooling is `last`, the job's `map`".to_owned();
        assert!(of("map").contains(&difference) && !of("last").contains(&difference));
    }
}
