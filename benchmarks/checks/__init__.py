"""How good the compiler's judgement is, measured against exhaustive execution."""
