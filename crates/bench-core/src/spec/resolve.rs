//! From arms as written to arms as they run: compositions are taken apart.

use super::{Arm, Experiment, Finetune, Prompt, Rag, Strategy};

/// An arm with its parts laid side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmPlan {
    /// The arm's name.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The eval sets it runs on, in the experiment's order.
    pub sets: Vec<String>,
    /// How it prompts.
    pub prompt: Prompt,
    /// How it retrieves, if it does.
    pub rag: Option<Rag>,
    /// How it is trained, if it is.
    pub finetune: Option<Finetune>,
}

/// Every arm of a parsed experiment, taken apart, in order.
pub fn resolve(experiment: &Experiment) -> Vec<ArmPlan> {
    experiment.arms.iter().map(|arm| plan(experiment, arm)).collect()
}

fn plan(experiment: &Experiment, arm: &Arm) -> ArmPlan {
    let mut plan = ArmPlan {
        name: arm.name.clone(),
        model: arm.model.clone(),
        sets: experiment
            .eval_sets
            .iter()
            .map(|set| set.name.clone())
            .filter(|set| arm.on.as_ref().is_none_or(|on| on.contains(set)))
            .collect(),
        prompt: Prompt::default(),
        rag: None,
        finetune: None,
    };
    match &arm.strategy {
        Strategy::Compose(parts) => {
            for name in parts {
                if let Some(part) = experiment.arms.iter().find(|other| &other.name == name) {
                    add(&mut plan, &part.strategy);
                }
            }
        }
        single => add(&mut plan, single),
    }
    plan
}

fn add(plan: &mut ArmPlan, strategy: &Strategy) {
    match strategy {
        Strategy::Prompt(prompt) => plan.prompt = prompt.clone(),
        Strategy::Rag(rag) => plan.rag = Some(rag.clone()),
        Strategy::Finetune(finetune) => plan.finetune = Some(finetune.clone()),
        // `parse` refuses compositions of compositions.
        Strategy::Compose(_) => {}
    }
}
