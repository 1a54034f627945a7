"""What the scripts share: reports, accuracies over seeds, where data lie."""
