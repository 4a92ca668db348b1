class Markov: pass
