"""How the bundled checkpoint `models/tiny-shapes` is made: pictures, questions, tokenizer, training, evaluation."""
