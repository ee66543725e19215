"""`memserve bench simulated`: what this machine is too small for, played by the simulator.

sessions of bench/serve -> a trace -> memserve.simulator -> a report beside the paper's figures, or in money
"""
