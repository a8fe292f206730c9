"""Sources of feedback, one small class each behind `morlaif.feedback.judge.Judge`."""
