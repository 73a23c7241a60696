"""Studies: every row of a results page played by one command, stopped and taken up again at any minute.

    python -m reproduce lenet_cifar10

A study is a YAML file beside this one. Its runs lie under logs/reproduce; what is done is kept in
docs/results/STUDY (small enough for git), from which docs/results/STUDY.md and its figures are written.
"""
