"""The log joint of any model as a function of one vector, with its derivatives, starts and checks."""
