"""Rules of the automatic gate, one file each: settings, when the rule holds, and what the evaluation must measure."""
