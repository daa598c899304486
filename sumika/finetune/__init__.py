"""What learns: data in, LoRA by TRL and PEFT, evaluation and its gate, an adapter out. The only package that loads torch."""
