"""The stand-in of the model: a scripted demo, or small real models of this computer."""
