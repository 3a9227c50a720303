//! `cappa-worker export`: the network of a committed checkpoint for other programs.

use std::fs;

use anyhow::{Context as _, Result};
use cappa_model::export::{Exported, Format};

use crate::cli::{ExportArgs, ExportFormat};
use crate::train::network::Network;
use crate::trained::Trained;

/// Writes a new folder that timm, transformers or open_clip loads.
pub(crate) fn export(args: &ExportArgs) -> Result<()> {
    let Trained { network, .. } = Trained::open(&args.network)?;
    let format = match args.to {
        ExportFormat::Timm => Format::Timm,
        ExportFormat::Transformers => Format::Transformers,
        ExportFormat::OpenClip => Format::OpenClip { folder: std::path::absolute(&args.out)? },
    };
    let exported: Exported = match &network {
        Network::Captioner(captioner) => captioner.export(&format),
        Network::TwoTower(towers, _) => towers.export(&format),
        Network::Classifier(classifier, _) => classifier.export(&format),
    }?;
    let out = args.out.display();
    fs::create_dir(&args.out)
        .with_context(|| format!("--out {out} can't be made; name a folder that does not exist"))?;
    for (name, content) in exported.files() {
        let file = args.out.join(name);
        fs::create_dir_all(file.parent().expect("in the folder"))?;
        fs::write(&file, content).with_context(|| format!("{out}/{name} can't be written"))?;
    }
    Ok(())
}
